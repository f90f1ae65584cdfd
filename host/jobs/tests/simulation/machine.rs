//! What a process has of the simulated disk: the files beside SQLite's.

use std::{any::Any, io, path::Path, sync::Arc};

use reverie_jobs::store::{self, Identity};

use crate::{
    disk::{Disk, Fault, Inode, State},
    vfs,
};

/// A process' view, which ends with its epoch.
pub struct Machine {
    pub disk: Arc<Disk>,
    pub epoch: u64,
}

impl Machine {
    pub fn new(disk: Arc<Disk>) -> Self {
        let epoch = disk.epoch();
        Self { disk, epoch }
    }

    fn act<T>(&self, act: impl FnOnce(&mut State) -> Result<T, Fault>) -> io::Result<T> {
        self.disk.of_epoch(self.epoch, act).map_err(|fault| match fault {
            Fault::Missing => io::ErrorKind::NotFound.into(),
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::Failed | Fault::Dead => io::Error::other("simulated"),
        })
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the simulation")
}

struct Lock {
    disk: Arc<Disk>,
    epoch: u64,
    inode: Inode,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.disk.of_epoch(self.epoch, |state| Ok(state.held.remove(&self.inode)));
    }
}

impl store::Disk for Machine {
    fn vfs(&self) -> Option<&str> {
        Some(vfs::NAME)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.act(|state| {
            let inode = state.find(text(path)).ok_or(Fault::Missing)?;
            Ok(state.read(inode)?.to_vec())
        })
    }

    fn write_again(&self, path: &Path) -> io::Result<()> {
        self.act(|state| {
            let Some(inode) = state.find(text(path)) else { return Ok(()) };
            let content = state.read(inode)?.to_vec();
            state.write(inode, 0, &content)?;
            state.sync(inode)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|state| state.rename(text(from), text(to)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.act(|state| state.remove(text(path)))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.act(|state| state.sync_folder(text(folder)))
    }

    fn make_folder(&self, _folder: &Path) -> io::Result<()> {
        self.act(|_| Ok(()))
    }

    fn identity(&self, path: &Path) -> io::Result<Option<Identity>> {
        self.act(|state| Ok(state.find(text(path)).map(|inode| Identity(1, inode))))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        let (disk, epoch) = (self.disk.clone(), self.epoch);
        self.act(|state| {
            let inode = state.open(text(path), true)?;
            Ok(match state.held.insert(inode) {
                true => Some(Box::new(Lock { disk, epoch, inode }) as Box<dyn Any + Send>),
                false => None,
            })
        })
    }
}
