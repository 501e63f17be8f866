//! What was written down while a world ran.

use crate::clock::Time;

/// All that oracles do not find with Kubernetes and Proxmox.
#[derive(Debug, Default)]
pub struct Log {
    /// What happened, to a machine or to all.
    pub lines: Vec<(Time, Option<usize>, String)>,
    /// Reports that were answered well, in the order of time.
    pub heard: Vec<Heard>,
    /// How often each process had looked at a machine, once a minute.
    pub looks: Vec<(Time, usize, u64)>,
}

/// A report that was taken: answered by 200, or refused for its body though its key was right.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// When.
    pub at: Time,
    /// Whose.
    pub vm: usize,
    /// Which process took it.
    pub process: usize,
    /// The agent said goodbye with it.
    pub goodbye: bool,
    /// The boot that it was in, by their number.
    pub boot: u32,
    /// CPU and memory in use, in percent.
    pub usage: (u32, u32),
}
