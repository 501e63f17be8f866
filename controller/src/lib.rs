//! The Defib controller: resets Proxmox VE virtual machines whose heartbeat stopped, and proves that they came back.
