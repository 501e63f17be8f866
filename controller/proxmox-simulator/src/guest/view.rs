//! The procfs and sysfs a guest sees: a directory tree with the few files an agent reads.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::config::Load;

/// Jiffies a second, as every Linux architecture reports to userspace.
const USER_HZ: f64 = 100.0;

/// How far load swings around its configured value, as a fraction of it.
const SWING: f64 = 0.08;

/// Writes and refreshes the files of one guest.
#[derive(Debug)]
pub(crate) struct GuestView {
    root: PathBuf,
    cores: u32,
    memory_kib: u64,
    load: Load,
    /// Whether there is a process that may read the files. Without one none is written: a fleet of thousands would keep the disk busy with them.
    read: bool,
    boot: Option<Boot>,
}

#[derive(Debug)]
struct Boot {
    started: Instant,
    started_at: SystemTime,
    /// When busy and idle time were last added up; `None` while virtual CPUs stand still.
    counted_to: Option<Instant>,
    busy: f64,
    idle: f64,
}

impl GuestView {
    /// A view under `root` (`.../guests/<vmid>`). Nothing is written before the first boot, and nothing at all when no process reads it.
    pub(crate) fn new(root: PathBuf, cores: u32, memory_mib: u64, load: Load, read: bool) -> Self {
        Self {
            root,
            cores,
            memory_kib: memory_mib * 1024,
            load,
            read,
            boot: None,
        }
    }

    /// The directory of the guest.
    pub(crate) fn directory(&self) -> &Path {
        &self.root
    }

    /// What stands for `/proc`.
    pub(crate) fn proc_root(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// What stands for `/sys`.
    pub(crate) fn sys_root(&self) -> PathBuf {
        self.root.join("sys")
    }

    /// Changes the load shown from now on.
    pub(crate) fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    /// The load shown now, as fractions of one: CPU and memory.
    pub(crate) fn usage(&self) -> (f64, f64) {
        let age = self.boot.as_ref().map_or(Duration::ZERO, |boot| boot.started.elapsed());
        usage(self.load, age)
    }

    /// Begins a new boot: new boot id, uptime and counters from zero. Files are complete when it returns.
    pub(crate) fn begin_boot(&mut self, boot_id: Uuid, machine: Option<Uuid>, hostname: &str) -> io::Result<()> {
        let now = Instant::now();
        self.boot = Some(Boot {
            started: now,
            started_at: SystemTime::now(),
            counted_to: Some(now),
            busy: 0.0,
            idle: 0.0,
        });
        if !self.read {
            return Ok(());
        }
        let proc_root = self.proc_root();
        let dmi = self.sys_root().join("class/dmi/id");
        fs::create_dir_all(proc_root.join("sys/kernel/random"))?;
        fs::create_dir_all(&dmi)?;
        replace(&proc_root.join("sys/kernel/random/boot_id"), &format!("{boot_id}\n"))?;
        replace(&proc_root.join("sys/kernel/hostname"), &format!("{hostname}\n"))?;
        // One disk, mounted as `/`. How full it is, a statfs of the real `/` tells.
        fs::create_dir_all(proc_root.join("self"))?;
        replace(
            &proc_root.join("self/mountinfo"),
            "22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n",
        )?;
        replace(&dmi.join("sys_vendor"), "QEMU\n")?;
        replace(&dmi.join("product_name"), "Standard PC (Q35 + ICH9, 2009)\n")?;
        let uuid_file = dmi.join("product_uuid");
        match machine {
            Some(uuid) => replace(&uuid_file, &format!("{uuid}\n"))?,
            None => match fs::remove_file(&uuid_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        self.write_moving(now)
    }

    /// Stops time for the guest: counters and files stay as they are.
    pub(crate) fn freeze(&mut self) {
        self.count(Instant::now());
        if let Some(boot) = &mut self.boot {
            boot.counted_to = None;
        }
    }

    /// Lets time go on. The time frozen counts neither as busy nor as idle.
    pub(crate) fn thaw(&mut self) {
        if let Some(boot) = &mut self.boot
            && boot.counted_to.is_none()
        {
            boot.counted_to = Some(Instant::now());
        }
    }

    /// Ends the boot: nothing is refreshed until the next one.
    pub(crate) fn end_boot(&mut self) {
        self.boot = None;
    }

    /// Brings the files up to date, unless the guest is frozen or off.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        if !self.read || self.boot.as_ref().is_none_or(|boot| boot.counted_to.is_none()) {
            return Ok(());
        }
        let now = Instant::now();
        self.count(now);
        self.write_moving(now)
    }

    fn count(&mut self, now: Instant) {
        let (cpu, _) = self.usage();
        let cores = f64::from(self.cores);
        let Some(boot) = &mut self.boot else { return };
        let Some(before) = boot.counted_to else { return };
        let seconds = now.saturating_duration_since(before).as_secs_f64() * cores;
        boot.busy += seconds * cpu;
        boot.idle += seconds * (1.0 - cpu);
        boot.counted_to = Some(now);
    }

    fn write_moving(&self, now: Instant) -> io::Result<()> {
        let Some(boot) = &self.boot else { return Ok(()) };
        let up = now.saturating_duration_since(boot.started);
        let (cpu, memory) = usage(self.load, up);
        let root = self.proc_root();
        replace(&root.join("stat"), &self.stat(boot))?;
        replace(&root.join("meminfo"), &meminfo(self.memory_kib, memory))?;
        replace(&root.join("uptime"), &format!("{:.2} {:.2}\n", up.as_secs_f64(), boot.idle))?;
        let load = cpu * f64::from(self.cores);
        let tasks = 90 + self.cores * 8;
        replace(&root.join("loadavg"), &format!("{load:.2} {load:.2} {load:.2} 1/{tasks} 1000\n"))
    }

    fn stat(&self, boot: &Boot) -> String {
        let cores = f64::from(self.cores.max(1));
        let line = |name: &str, share: f64| {
            let busy = boot.busy * USER_HZ / share;
            let (user, system) = (busy * 0.7, busy * 0.3);
            format!("{name} {user:.0} 0 {system:.0} {:.0} 0 0 0 0 0 0\n", boot.idle * USER_HZ / share)
        };
        let mut text = line("cpu ", 1.0);
        for core in 0..self.cores {
            text.push_str(&line(&format!("cpu{core}"), cores));
        }
        let booted = boot.started_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let switches = (boot.busy + boot.idle) * 250.0;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "intr {switches:.0}\nctxt {switches:.0}\nbtime {booted}\nprocesses 1000\nprocs_running 1\nprocs_blocked 0\n"
        );
        text
    }
}

/// CPU and memory as fractions of one, swinging slowly around what was configured.
fn usage(load: Load, age: Duration) -> (f64, f64) {
    let seconds = age.as_secs_f64();
    let swing = |percent: f64, period: f64| (percent / 100.0 * (1.0 + SWING * (seconds / period).sin())).clamp(0.0, 1.0);
    (swing(load.cpu_percent, 7.0), swing(load.memory_percent, 31.0))
}

fn meminfo(total: u64, used: f64) -> String {
    // Precise to the KiB up to 8 EiB of memory, far beyond any VM.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let available = ((total as f64) * (1.0 - used)) as u64;
    let cached = available / 2;
    let buffers = available / 16;
    let free = available - cached - buffers;
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", available),
        ("Buffers", buffers),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", total - available),
        ("Inactive", cached),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
    ];
    rows.iter()
        .map(|(name, kib)| format!("{:<16}{kib:>8} kB\n", format!("{name}:")))
        .collect()
}

/// Replaces a file in one step, so that a reader never sees half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(directory: &Path) -> GuestView {
        GuestView::new(
            directory.to_owned(),
            2,
            2048,
            Load {
                cpu_percent: 40.0,
                memory_percent: 75.0,
            },
            true,
        )
    }

    fn busy_share(stat: &str) -> f64 {
        let fields: Vec<f64> = stat
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap())
            .collect();
        let total: f64 = fields.iter().sum();
        1.0 - fields[3] / total
    }

    #[test]
    fn cpu_and_memory_show_the_configured_load() {
        let directory = tempfile::tempdir().unwrap();
        let mut view = view(directory.path());
        view.begin_boot(Uuid::new_v4(), None, "web1").unwrap();
        // As if ten seconds had passed, without waiting for them.
        let boot = view.boot.as_mut().unwrap();
        boot.counted_to = boot.started.checked_sub(Duration::from_secs(10));
        view.refresh().unwrap();
        let stat = fs::read_to_string(view.proc_root().join("stat")).unwrap();
        let share = busy_share(&stat);
        assert!((0.35..0.45).contains(&share), "{share} in {stat}");
        let meminfo = fs::read_to_string(view.proc_root().join("meminfo")).unwrap();
        let field = |name: &str| -> f64 {
            let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let used = 1.0 - field("MemAvailable:") / field("MemTotal:");
        assert!((0.65..0.85).contains(&used), "{used}");
    }

    #[test]
    fn a_frozen_view_does_not_move() {
        let directory = tempfile::tempdir().unwrap();
        let mut view = view(directory.path());
        view.begin_boot(Uuid::new_v4(), None, "web1").unwrap();
        view.freeze();
        let before = fs::metadata(view.proc_root().join("stat")).unwrap().modified().unwrap();
        view.refresh().unwrap();
        assert_eq!(before, fs::metadata(view.proc_root().join("stat")).unwrap().modified().unwrap());
    }

    #[test]
    fn nothing_is_written_for_a_guest_without_a_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut view = GuestView::new(directory.path().join("100"), 2, 2048, Load::default(), false);
        view.begin_boot(Uuid::new_v4(), None, "web1").unwrap();
        view.refresh().unwrap();
        assert!(!directory.path().join("100").exists());
        assert!(view.usage().0 > 0.0);
    }

    #[test]
    fn a_machine_without_smbios_uuid_has_no_such_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut view = view(directory.path());
        let file = view.sys_root().join("class/dmi/id/product_uuid");
        view.begin_boot(Uuid::new_v4(), Some(Uuid::nil()), "web1").unwrap();
        assert!(file.exists());
        view.begin_boot(Uuid::new_v4(), None, "web1").unwrap();
        assert!(!file.exists());
    }
}
