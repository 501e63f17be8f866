//! Running a short program with a deadline.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What the program wrote to stdout, if it succeeded within the deadline; else the reason as words (its status and stderr).
///
/// For programs that say little: output beyond the pipe's buffer (64 KiB) would stop them until the deadline.
pub(crate) fn output_within(command: &mut Command, patience: Duration) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", patience.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let read = |pipe: &mut dyn Read| -> Result<String, String> {
        let mut said = Vec::new();
        pipe.take(64 * 1024).read_to_end(&mut said).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    };
    match (status.success(), child.stdout.as_mut(), child.stderr.as_mut()) {
        (true, Some(stdout), _) => read(stdout),
        (false, _, Some(stderr)) => Err(format!("{status}: {}", read(stderr)?.trim())),
        _ => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_failure_and_deadline() {
        let long = Duration::from_secs(30);
        assert_eq!(output_within(Command::new("echo").arg("hello"), long).as_deref(), Ok("hello\n"));
        let failed = output_within(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), long).unwrap_err();
        assert!(failed.contains('3') && failed.contains("why"), "{failed}");
        let slow = output_within(Command::new("sleep").arg("600"), Duration::ZERO).unwrap_err();
        assert!(slow.contains("no answer"), "{slow}");
    }
}
