//! Opening a file, and making it anew where it is missing or damaged. The new one is complete and on the disk before the old
//! one is moved aside, and whatever comes between is finished at the next start.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Change, Kept, Loaded,
    database::{self, Database, Link},
    disk::Disk,
    image, import,
    log::Log,
    look::{Look, Sound, look, read_log, served_at_least, side_tables, unreadable},
    place::Place,
    salvage::{Salvaged, salvage},
    schema,
    swap::{self, NEW, PART, beside, folder_of, log_of},
};

/// Which process has locked a place, as far as its lock says it.
pub fn holder(path: &Path, disk: &dyn Disk) -> String {
    let said = disk.read(&beside(path, ".lock")).ok().and_then(|text| String::from_utf8(text).ok());
    said.map_or_else(String::new, |process| format!(" (process {})", process.trim()))
}

/// See [`Database::open`].
pub fn open(path: &Path, disk: Arc<dyn Disk>) -> Result<(Database, Loaded), String> {
    let shown = path.display();
    let mut loaded = Loaded::default();
    if import::is_old(path, &*disk) {
        return Err(format!(
            "jobs.ledger '{shown}' is a ledger of an earlier version: name '{}', and it is taken over",
            path.with_extension("db").display()
        ));
    }
    let folder = folder_of(path);
    if let Err(error) = disk.make_folder(folder) {
        loaded.notes.push(format!("the folder '{}' can't be made: {error}", folder.display()));
    }
    let lock = match disk.lock(&beside(path, ".lock")) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => {
            let holder = holder(path, &*disk);
            return Err(format!("jobs.ledger '{shown}' is in use by another server{holder}"));
        }
        Err(error) => {
            loaded.notes.push(format!("'{shown}.lock' can't be made: {error}"));
            None
        }
    };
    let place = Place { path: path.to_owned(), disk, lock, identity: None, log: None, length: 0 };
    let mut database = Database::closed(place);
    swap::finish(path, &*database.disk()).map_err(|error| {
        format!("jobs.ledger '{shown}': a repair that was cut short can't be finished: {error}")
    })?;
    match database.disk().identity(path).map_err(|error| unreadable(path, error))? {
        None => database.begin(path, &mut loaded)?,
        Some(_) => database.take_up(path, &mut loaded)?,
    }
    Ok((database, loaded))
}

impl Database {
    fn closed(place: Place) -> Self {
        Self { place: Some(place), link: Link::Closed, seq: 0, contents: Default::default() }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.place.as_ref().expect("in a file").disk.clone()
    }

    /// Makes a new file, with what the log of one that is missing has, or a ledger of earlier versions.
    fn begin(&mut self, path: &Path, loaded: &mut Loaded) -> Result<(), String> {
        let disk = self.disk();
        let mut found = Salvaged::default();
        let mut old = None;
        if let Some(log) = read_log(path, &*disk)? {
            found = salvage(&[], &log);
            self.seq = found.newest();
            loaded.kept.records = found.take_records();
            loaded.notes.push(format!(
                "it is missing, but its log is there: {} job(s) could be read; the log is kept as '{}'",
                loaded.kept.records.len(),
                log_of(&swap::name_aside(path, &*disk)).display()
            ));
        } else if let Some((records, notes)) = import::read(path, &*disk)? {
            let from = import::old_ledger(path);
            loaded.notes.extend(notes);
            tracing::info!(jobs = records.len(), from = %from.display(), "an earlier version's ledger was taken over");
            loaded.kept.objects = import::outputs(&records);
            loaded.kept.records = records;
            old = Some(from);
        }
        loaded.kept.served = served_at_least(&loaded.kept.records);
        self.link = Link::Lost("it is new".to_owned(), None);
        if let Err(error) = self.rebuild_with(&loaded.kept, found.contents) {
            loaded.notes.push(format!("it can't be made: {error}"));
        } else if let Some(old) = old
            && let Err(error) = import::put_away(&old, &*disk)
        {
            loaded.notes.push(format!("'{}' can't be renamed: {error}", old.display()));
        }
        Ok(())
    }

    /// Reads a file that is there, and makes it anew where that is needed.
    fn take_up(&mut self, path: &Path, loaded: &mut Loaded) -> Result<(), String> {
        let disk = self.disk();
        let log = read_log(path, &*disk)?.unwrap_or_default();
        self.place.as_mut().expect("in a file").identity =
            disk.identity(path).map_err(|error| unreadable(path, error))?;
        let (unread, goes_on) = {
            let log = Log::of(&log);
            (log.unread, log.goes_on)
        };
        // What can't be read is no less there: with nothing in memory, new jobs would take the places of old ones.
        let salvaged = || {
            let file = disk.read(path).map_err(|error| unreadable(path, error))?;
            Ok::<_, String>(salvage(&file, &log))
        };
        let (damage, mut found, mut kept) = match look(path, &*disk, &log, &mut loaded.notes)? {
            Look::Sound(sound) => {
                let Sound { connection, is_file, seq, kept, contents } = *sound;
                let mut found = if unread > 0 { salvaged()? } else { Salvaged::default() };
                found.records.retain(|_, (number, _)| *number > seq);
                if found.records.is_empty() {
                    if unread > 0 {
                        loaded.notes.push(format!(
                            "its log was cut short or is damaged: of the last {unread} frame(s), which SQLite does not \
                             read, nothing newer is left"
                        ));
                    }
                    if goes_on && is_file {
                        // What is written from now on must not end in front of old frames.
                        let _ = schema::checkpoint(&connection);
                    }
                    self.holds(seq, &kept.records, contents);
                    if is_file {
                        self.link = Link::Open(connection);
                        self.place.as_mut().expect("in a file").opened();
                    }
                    loaded.kept = kept;
                    return Ok(());
                }
                drop(connection);
                // In memory, so that the disk can't fail in between.
                let file = disk.read(path).map_err(|error| unreadable(path, error))?;
                let image = image::open(&file, &log).map_err(|error| unreadable(path, error))?;
                found.contents.extend(database::read_contents(&image));
                for record in &kept.records {
                    found.records.entry(record.job.id).or_insert_with(|| (seq, record.clone()));
                }
                let note = "its log was cut short or is damaged: SQLite does not read the last";
                (vec![format!("{note} {unread} frame(s)")], found, kept)
            }
            Look::Damaged(notes) => (notes, salvaged()?, side_tables(path, &*disk, &log)),
        };
        let newest = found.newest();
        kept.records = found.take_records();
        kept.served = kept.served.max(served_at_least(&kept.records));
        self.holds(newest, &kept.records, Vec::new());
        loaded.kept = kept;
        loaded.notes.push(format!(
            "{}; {} job(s) could be read; the file is kept as '{}'",
            damage.join("; "),
            loaded.kept.records.len(),
            swap::name_aside(path, &*disk).display()
        ));
        self.link = Link::Lost("it is damaged".into(), None);
        if let Err(error) = self.rebuild_with(&loaded.kept, found.contents) {
            loaded.notes.push(format!("it can't be made anew: {error}"));
        }
        Ok(())
    }

    /// Makes the file anew with what is to be kept; contents of inputs are taken from where they are still to be had.
    ///
    /// # Errors
    /// What the file system or SQLite said. It is to be tried again.
    pub fn rebuild(&mut self, kept: &Kept) -> Result<(), String> {
        let Some(place) = &self.place else { return Err("it is in memory".into()) };
        let mut unread = None;
        let mut read = |path: PathBuf| {
            let content = place.disk.read(&path);
            content.unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    unread = Some(format!("'{}' can't be read: {error}", path.display()));
                }
                Vec::new()
            })
        };
        let Salvaged { mut contents, records } =
            salvage(&read(place.path.clone()), &read(log_of(&place.path)));
        // An earlier try may have moved the old file aside.
        contents.extend(salvage(&read(beside(&place.path, NEW)), &[]).contents);
        let newest = records.values().map(|(seq, _)| *seq).max().unwrap_or(0);
        contents.extend(self.remains());
        // What was being accepted, and is not in the file, comes with its contents after this.
        let mut kept = kept.clone();
        kept.records.retain(|record| {
            let known = record.inputs.is_empty() || self.contents.are_needed_by(record.n);
            known || record.inputs.iter().all(|input| contents.contains_key(&input.sha256))
        });
        let mut inputs = kept.records.iter().flat_map(|record| &record.inputs);
        // What is missing may be there the next time.
        if let (Some(unread), true) = (unread, inputs.any(|input| !contents.contains_key(&input.sha256))) {
            return Err(unread);
        }
        self.seq = self.seq.max(newest);
        self.rebuild_with(&kept, contents)
    }

    fn rebuild_with(&mut self, kept: &Kept, contents: HashMap<String, Vec<u8>>) -> Result<(), String> {
        let Some(place) = &mut self.place else { return Err("it is in memory".into()) };
        let (path, disk) = (place.path.clone(), place.disk.clone());
        disk.make_folder(folder_of(&path)).map_err(|error| error.to_string())?;
        // The lock may have gone with the folder; another server may have taken the place.
        place.lock = None;
        match disk.lock(&beside(&path, ".lock")).map_err(|error| error.to_string())? {
            Some(lock) => place.lock = Some(lock),
            None => return Err("another server has taken its place".into()),
        }
        let aside = swap::name_aside(&path, &*disk);
        let mut seq = self.seq;
        let rows =
            write_new(&path, &aside, &*disk, kept, contents, &mut seq).map_err(|error| error.to_string())?;
        swap::swap(&path, &aside, &*disk).map_err(|error| error.to_string())?;
        let connection = schema::connect(&path, &*disk).map_err(|error| error.to_string())?;
        self.link = Link::Open(connection);
        self.holds(seq, &kept.records, rows);
        self.place.as_mut().expect("in a file").opened();
        Ok(())
    }
}

fn write_new(
    path: &Path,
    aside: &Path,
    disk: &dyn Disk,
    kept: &Kept,
    mut contents: HashMap<String, Vec<u8>>,
    seq: &mut u64,
) -> rusqlite::Result<Vec<(String, i64)>> {
    // Not the complete one itself: where an earlier try has moved the old file aside, that is all there is.
    let part = beside(path, PART);
    for stale in [beside(&part, "-journal"), part.clone()] {
        let _ = disk.remove(&stale);
    }
    let connection = schema::create(&part, disk)?;
    let transaction = connection.unchecked_transaction()?;
    let mut rows = Vec::new();
    for record in &kept.records {
        database::make(&transaction, &Change::Job(Box::new(record.clone())), seq)?;
        for input in &record.inputs {
            if let Some(content) = contents.remove(&input.sha256) {
                rows.push((input.sha256.clone(), database::insert_content(&transaction, &content)?));
            }
        }
    }
    for (objects, doomed) in [(&kept.objects, false), (&kept.doomed, true)] {
        for object in objects {
            database::write_object(&transaction, object, doomed)?;
        }
    }
    database::make(&transaction, &Change::Served(kept.served), seq)?;
    // The last row: whoever finds it finds all, and finishes what is left of the swap.
    transaction.execute("INSERT INTO meta VALUES ('aside', ?)", [swap::ending_of(aside, path)])?;
    transaction.commit()?;
    Ok(rows)
}
