//! Small things with files.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Error;
use crate::error::Tried;

/// Writes a file that only its owner may read, and never half.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    remove_file(&partial)?;
    let mut file = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .tried("create", &partial)?;
    file.write_all(text.as_bytes()).tried("write", &partial)?;
    fs::rename(&partial, path).tried("rename", &partial)
}

/// Removes a file that may not be there.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).tried("remove", path),
        _ => Ok(()),
    }
}
