//! The folder outside the checkout that keeps what is expensive to make, and the lock files in it.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::Tried;

/// The cache folder: `DEFIB_CACHE`, else `defib` in `XDG_CACHE_HOME`, else `~/.cache/defib`. It may not exist yet.
///
/// # Errors
/// [`Error::NoCacheFolder`] when none of the three variables is set.
pub fn cache_folder() -> Result<PathBuf, Error> {
    let named = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = named("DEFIB_CACHE") {
        return std::path::absolute(&folder).tried("resolve", &folder);
    }
    // The XDG specification: a relative path there is invalid and to be ignored.
    let xdg = named("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    xdg.or_else(|| named("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("defib"))
        .ok_or(Error::NoCacheFolder)
}

/// Takes the lock file exclusively; it is free again when the returned file is dropped, or its process ends.
///
/// `on_wait` is called once, when another process holds it.
pub(crate) fn lock(path: &Path, patience: Duration, on_wait: impl FnOnce()) -> Result<File, Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).tried("create", folder)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .tried("open", path)?;
    let began = Instant::now();
    let mut on_wait = Some(on_wait);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(source).tried("lock", path),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(on_wait) = on_wait.take() {
            on_wait();
        }
        if began.elapsed() > patience {
            return Err(Error::Locked {
                path: path.to_path_buf(),
                waited: patience,
            });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x.lock");
        let held = lock(&path, Duration::ZERO, || panic!("nobody holds it")).unwrap();

        let mut waited = false;
        let refused = lock(&path, Duration::ZERO, || waited = true);
        assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
        assert!(waited, "the caller is told that it waits");

        drop(held);
        lock(&path, Duration::ZERO, || panic!("it was freed")).unwrap();
    }
}
