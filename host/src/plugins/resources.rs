//! What the host holds for a guest under handles: nothing gets in without the memory that it takes.

use wasmtime::component::{Resource, ResourceTable};

use super::memory::{Exhausted, Part};

/// Bytes of an entry beside its content: in this table, and in the guest's table of handles.
const ENTRY: usize = 256;

/// The resources of one call.
pub struct Resources(ResourceTable);

impl Default for Resources {
    fn default() -> Self {
        let mut table = ResourceTable::new();
        // Memory bounds it.
        table.set_max_capacity(usize::MAX);
        Self(table)
    }
}

/// A resource with the memory that it takes.
struct Stored<T> {
    value: T,
    _part: Part,
}

/// The handle of the entry that a guest knows by this one.
fn entry<T: 'static>(handle: &Resource<T>) -> Resource<Stored<T>> {
    Resource::new_own(handle.rep())
}

impl Resources {
    /// Keeps a resource, which takes `part` and room for an entry.
    ///
    /// # Errors
    /// When there is no memory for the entry.
    pub fn push<T: Send + 'static>(&mut self, value: T, mut part: Part) -> Result<Resource<T>, Exhausted> {
        part.grow(ENTRY)?;
        let kept = self.0.push(Stored { value, _part: part }).expect("as many entries as memory allows");
        Ok(Resource::new_own(kept.rep()))
    }

    /// # Errors
    /// A trap when there is no such resource, as no guest can ask.
    pub fn get<T: Send + 'static>(&self, handle: &Resource<T>) -> wasmtime::Result<&T> {
        Ok(&self.0.get(&entry(handle))?.value)
    }

    /// # Errors
    /// Those of [`Resources::get`].
    pub fn get_mut<T: Send + 'static>(&mut self, handle: &Resource<T>) -> wasmtime::Result<&mut T> {
        Ok(&mut self.0.get_mut(&entry(handle))?.value)
    }

    /// Drops a resource and gives its memory back.
    ///
    /// # Errors
    /// Those of [`Resources::get`].
    pub fn delete<T: Send + 'static>(&mut self, handle: Resource<T>) -> wasmtime::Result<()> {
        self.0.delete(entry(&handle))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use reverie_memory::Budget;

    use super::{super::memory::Memory, *};

    #[test]
    fn entries_are_bounded_by_memory_and_give_it_back() {
        let budget = Budget::new(1 << 30);
        let memory = Memory::new(Arc::from("one"), 100 * ENTRY, budget.clone());
        let mut resources = Resources::default();
        let mut kept = Vec::new();
        let refused = loop {
            match resources.push(kept.len(), memory.nothing()) {
                Ok(handle) => kept.push(handle),
                Err(refused) => break refused,
            }
        };
        assert!(kept.len() == 100 && matches!(refused, Exhausted::Plugin { .. }));
        assert_eq!(*resources.get(&kept[7]).unwrap(), 7);
        *resources.get_mut(&kept[7]).unwrap() = 70;
        resources.delete(kept.pop().unwrap()).unwrap();
        assert!(resources.push(0usize, memory.nothing()).is_ok());
        assert_eq!(*resources.get(&kept[7]).unwrap(), 70);
        drop(resources);
        assert_eq!(budget.used(), 0);
    }
}
