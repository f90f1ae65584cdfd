//! A disk in memory that fails, tears and forgets. Programs on it are of one epoch, which ends with a kill or a power cut: what
//! is left of an earlier epoch can do nothing any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    generator::Generator,
    image::{Image, Loss, SECTOR},
    locks::Locks,
};

pub type Inode = u64;

/// Why an operation was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process or the machine has ended.
    Dead,
    Failed,
    Full,
    Missing,
}

/// How often operations fail, in 1000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    pub read: u64,
    pub write: u64,
    pub sync: u64,
    pub names: u64,
    /// Nothing takes more room.
    pub full: bool,
}

/// A change of names, done whole or not at all.
struct Rename {
    folder: String,
    names: Vec<(String, Option<Inode>)>,
}

pub struct State {
    epoch: u64,
    dead: bool,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    unsynced_names: Vec<Rename>,
    files: HashMap<Inode, Image>,
    inodes: Inode,
    pub held: HashSet<Inode>,
    pub locks: HashMap<Inode, Arc<Locks>>,
    pub faults: Faults,
    /// How many faults there have been.
    pub injected: u64,
    generator: Generator,
    /// Changes until the end of the epoch.
    left: Option<u64>,
}

pub struct Disk(Mutex<State>);

pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk {
    pub fn new(generator: Generator) -> Self {
        Self(Mutex::new(State {
            epoch: 1,
            dead: false,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            files: HashMap::new(),
            inodes: 0,
            held: HashSet::new(),
            locks: HashMap::new(),
            faults: Faults::default(),
            injected: 0,
            generator,
            left: None,
        }))
    }

    pub fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// The state, for who is of this epoch.
    pub fn of_epoch<T>(
        &self,
        epoch: u64,
        act: impl FnOnce(&mut State) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut state = self.0.lock();
        match state.epoch == epoch && !state.dead {
            true => act(&mut state),
            false => Err(Fault::Dead),
        }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    pub fn faults(&self) -> Faults {
        self.0.lock().faults
    }

    pub fn injected(&self) -> u64 {
        self.0.lock().injected
    }

    /// Lets the epoch end in the middle of the change that comes after so many others.
    pub fn die_after(&self, changes: Option<u64>) {
        self.0.lock().left = changes;
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    pub fn is_held(&self, path: &str) -> bool {
        let state = self.0.lock();
        state.names.get(path).is_some_and(|inode| state.held.contains(inode))
    }

    /// Files and their contents.
    pub fn contents(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.0.lock();
        let inside = state.names.iter().filter(|(path, _)| folder_of(path) == folder);
        inside.map(|(path, inode)| (path.clone(), state.files[inode].content().to_vec())).collect()
    }

    /// Ends the epoch. With the process alone all stays that was written; with the power, what was not synced may be lost.
    pub fn end_epoch(&self, power_cut: bool) {
        let mut state = self.0.lock();
        let state = &mut *state;
        (state.epoch, state.dead, state.left) = (state.epoch + 1, false, None);
        (state.held, state.locks) = (HashSet::new(), HashMap::new());
        if power_cut {
            let names = Loss::any(&mut state.generator);
            for rename in std::mem::take(&mut state.unsynced_names) {
                let survives = match names {
                    Loss::Nothing => true,
                    Loss::Everything => false,
                    Loss::Some => state.generator.chance(1, 2),
                };
                if survives {
                    apply(&mut state.durable_names, &rename.names);
                }
            }
            state.names = state.durable_names.clone();
            let loss = Loss::any(&mut state.generator);
            let mut inodes: Vec<Inode> = state.files.keys().copied().collect();
            inodes.sort_unstable();
            for inode in inodes {
                state.files.get_mut(&inode).expect("listed").cut(loss, &mut state.generator);
            }
        }
        let (names, durable, unsynced) = (&state.names, &state.durable_names, &state.unsynced_names);
        let named: HashSet<Inode> = names.values().chain(durable.values()).copied().collect();
        let named_once =
            |inode: &Inode| unsynced.iter().any(|r| r.names.iter().any(|(_, i)| *i == Some(*inode)));
        state.files.retain(|inode, _| named.contains(inode) || named_once(inode));
    }
}

fn apply(names: &mut BTreeMap<String, Inode>, changes: &[(String, Option<Inode>)]) {
    for (name, inode) in changes {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

impl State {
    fn fails(&mut self, in_1000: u64) -> bool {
        let fails = in_1000 > 0 && self.generator.chance(in_1000, 1000);
        self.injected += u64::from(fails);
        fails
    }

    /// Counts a change; an error in the middle of which all ends.
    fn change(&mut self) -> Result<(), Fault> {
        match &mut self.left {
            Some(0) => {
                self.dead = true;
                Err(Fault::Dead)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn rename_all(&mut self, folder: &str, names: Vec<(String, Option<Inode>)>) -> Result<(), Fault> {
        if let Err(dead) = self.change() {
            // A kill comes before or after it.
            if self.generator.chance(1, 2) {
                return Err(dead);
            }
        }
        if self.fails(self.faults.names) {
            return Err(Fault::Failed);
        }
        apply(&mut self.names, &names);
        self.unsynced_names.push(Rename { folder: folder.to_owned(), names });
        if self.dead { Err(Fault::Dead) } else { Ok(()) }
    }

    pub fn find(&self, path: &str) -> Option<Inode> {
        self.names.get(path).copied()
    }

    pub fn open(&mut self, path: &str, create: bool) -> Result<Inode, Fault> {
        match (self.find(path), create) {
            (Some(inode), _) => Ok(inode),
            (None, false) => Err(Fault::Missing),
            (None, true) => {
                if self.faults.full {
                    self.injected += 1;
                    return Err(Fault::Full);
                }
                self.inodes += 1;
                let inode = self.inodes;
                self.files.insert(inode, Image::default());
                self.rename_all(folder_of(path), vec![(path.to_owned(), Some(inode))])?;
                Ok(inode)
            }
        }
    }

    /// # Errors
    /// `Failed`, for the whole file.
    pub fn read(&mut self, inode: Inode) -> Result<&[u8], Fault> {
        match self.fails(self.faults.read) {
            true => Err(Fault::Failed),
            false => Ok(self.file(inode).content()),
        }
    }

    pub fn size(&mut self, inode: Inode) -> usize {
        self.file(inode).content().len()
    }

    pub fn write(&mut self, inode: Inode, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let died = self.change();
        let grows = at + bytes.len() > self.size(inode);
        let fault = match () {
            () if died.is_err() => Some(Fault::Dead),
            () if self.faults.full && grows => {
                self.injected += 1;
                Some(Fault::Full)
            }
            () if self.fails(self.faults.write) => Some(self.generator.pick(&[Fault::Failed, Fault::Full])),
            () => None,
        };
        // A write that fails may have been begun.
        let done = match fault {
            Some(_) => self.generator.index(bytes.len() / SECTOR + 2) * SECTOR,
            None => bytes.len(),
        };
        self.file(inode).write(at, &bytes[..done.min(bytes.len())]);
        fault.map_or(Ok(()), Err)
    }

    pub fn truncate(&mut self, inode: Inode, length: usize) -> Result<(), Fault> {
        self.change()?;
        if self.fails(self.faults.write) {
            return Err(Fault::Failed);
        }
        self.file(inode).truncate(length);
        Ok(())
    }

    pub fn sync(&mut self, inode: Inode) -> Result<(), Fault> {
        self.change()?;
        if self.fails(self.faults.sync) {
            let state = &mut *self;
            if state.generator.chance(1, 2) {
                let file = state.files.get_mut(&inode).expect("open");
                file.lose_unsynced(&mut state.generator);
            }
            return Err(Fault::Failed);
        }
        self.file(inode).sync();
        Ok(())
    }

    pub fn sync_folder(&mut self, folder: &str) -> Result<(), Fault> {
        self.change()?;
        if self.fails(self.faults.sync) {
            return Err(Fault::Failed);
        }
        let (synced, other) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|rename| rename.folder == folder);
        self.unsynced_names = other;
        let synced: Vec<Rename> = synced;
        synced.iter().for_each(|rename| apply(&mut self.durable_names, &rename.names));
        Ok(())
    }

    pub fn remove(&mut self, path: &str) -> Result<(), Fault> {
        self.find(path).ok_or(Fault::Missing)?;
        self.rename_all(folder_of(path), vec![(path.to_owned(), None)])
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        let inode = self.find(from).ok_or(Fault::Missing)?;
        self.rename_all(folder_of(from), vec![(from.to_owned(), None), (to.to_owned(), Some(inode))])
    }

    fn file(&mut self, inode: Inode) -> &mut Image {
        self.files.get_mut(&inode).expect("files of an epoch stay until it ends")
    }
}
