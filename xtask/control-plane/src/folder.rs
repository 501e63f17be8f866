//! The data folder of a control plane: kept, or temporary and deleted when its owner ends, however it ends.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::Tried;

/// Deletes the folder once the pipe on its stdin ends. It tries again for ten seconds: when the owner was killed, etcd is being
/// killed at the same time and may still write a file into a folder that is being deleted.
const JANITOR: &str = r#"
read -r _
i=0
while [ -e "$0" ] && [ $i -lt 100 ]; do
    rm -rf -- "$0" 2>/dev/null && break
    i=$((i + 1))
    sleep 0.1
done
"#;

const JANITOR_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Deletes the folder when this process drops it or ends; none for a folder that is kept.
    janitor: Option<Child>,
}

impl Folder {
    /// A new folder that lives as long as this value.
    pub(crate) fn temporary() -> Result<Self, Error> {
        let parent = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("control-plane-")
            .tempdir_in(&parent)
            .tried("create a folder in", &parent)?;
        let mut janitor = Command::new("sh");
        janitor.arg("-c").arg(JANITOR).arg(folder.path());
        // Out of reach of the terminal's Ctrl-C, which would end it before it has done its work.
        janitor
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let janitor = janitor.spawn().tried("run", "sh")?;
        Ok(Self {
            path: folder.keep(),
            janitor: Some(janitor),
        })
    }

    /// A folder that stays; created if it is not there. Only its owner may look into it, as it holds private keys.
    pub(crate) fn kept(path: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(path).tried("resolve", path)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .tried("create", &path)?;
        Ok(Self { path, janitor: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.janitor.is_some()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some(mut janitor) = self.janitor.take() else { return };
        drop(janitor.stdin.take());
        let deadline = Instant::now() + JANITOR_PATIENCE;
        while matches!(janitor.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_its_owner_and_a_kept_one_stays() {
        let temporary = Folder::temporary().unwrap();
        let path = temporary.path().to_path_buf();
        fs::create_dir(path.join("etcd")).unwrap();
        fs::write(path.join("etcd/db"), "data").unwrap();
        drop(temporary);
        assert!(!path.exists(), "{} is left", path.display());

        let parent = tempfile::tempdir().unwrap();
        let kept = Folder::kept(&parent.path().join("a/b")).unwrap();
        let path = kept.path().to_path_buf();
        drop(kept);
        assert!(path.is_dir());
    }
}
