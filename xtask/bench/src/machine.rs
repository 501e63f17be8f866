//! On what and when was measured.

use jiff::Timestamp;

/// Machine, date and size of the fleet, in a sentence.
pub fn words(vms: u32) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".into());
    let memory = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let memory = memory.map_or_else(String::new, |kib| format!(", {:.0} GiB of memory", kib / (1024.0 * 1024.0)));
    let date = Timestamp::now().strftime("%Y-%m-%d");
    format!(
        "Measured on {date} on {cores} cores ({cpu}){memory}, shared by Defib, the load generator, etcd, kube-apiserver and the Proxmox simulator; {vms} VMs."
    )
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_named() {
        let words = words(7);
        assert!(
            words.contains("GiB of memory") && words.contains("7 VMs") && !words.contains("on 0 cores"),
            "{words}"
        );
    }
}
