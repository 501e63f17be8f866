//! Kills guest processes when the simulator is gone, however it went.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Pid;

/// The reaper reads from a pipe only the simulator writes to. Its end of file means that the
/// simulator is gone, SIGKILL included; what is then still on the list is killed. Unlike a
/// parent-death signal this reaches whole process groups, also stopped ones.
const SCRIPT: &str = r#"
live=" "
while read -r verb group; do
    case $verb in
        watch) live="$live$group " ;;
        forget) case $live in *" $group "*) live="${live%% $group *} ${live#* $group }" ;; esac ;;
    esac
done
for group in $live; do kill -s KILL -- "-$group" 2>/dev/null; done
exit 0
"#;

/// A helper process that outlives the simulator just long enough to kill its guests.
#[derive(Clone, Debug)]
pub(crate) struct Reaper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
}

impl Reaper {
    /// Starts the helper, in a process group of its own so that Ctrl-C does not end it before its work is done.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "pve-sim-reaper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self(Arc::new(Inner {
            pipe,
            child: Mutex::new(child),
        })))
    }

    /// The pipe, for a new process to put itself on the list (`watch <group>`).
    pub(crate) fn pipe(&self) -> std::io::Result<Stdio> {
        let pipe = self.0.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        match pipe.as_ref() {
            Some(pipe) => Ok(pipe.as_fd().try_clone_to_owned()?.into()),
            None => Err(std::io::Error::other("the reaper is gone")),
        }
    }

    /// Takes a process group off the list: it is gone.
    pub(crate) fn forget(&self, group: Pid) {
        let mut pipe = self.0.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("forget {}\n", group.as_raw_nonzero());
        if let Some(Err(error)) = pipe.as_mut().map(|pipe| pipe.write_all(line.as_bytes())) {
            tracing::warn!(%error, "the reaper is gone: guests outlive a killed simulator");
            *pipe = None;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the pipe is the signal to finish; the wait leaves no zombie behind.
        drop(self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
    }
}
