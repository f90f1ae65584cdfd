//! Tables that are read again, also where the process that writes them ends before its time.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

/// A file of columns separated by tabs; without one, rows go nowhere.
pub struct Table(Option<File>);

impl Table {
    /// Appends to the file, and begins with the columns' names where it is new.
    pub fn open(path: Option<&Path>, columns: &[&str]) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let new = !path.exists();
        let mut table = Self(Some(OpenOptions::new().append(true).create(true).open(path)?));
        if new {
            table.row(&columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>())?;
        }
        Ok(table)
    }

    /// A row, of which every line is one: what would end a cell becomes a space.
    pub fn row(&mut self, cells: &[String]) -> io::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace(['\t', '\n', '\r'], " ")).collect();
        // At once: nothing is lost with the process.
        file.write_all(format!("{}\n", cells.join("\t")).as_bytes())
    }
}
