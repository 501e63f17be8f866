//! The configuration a virtual machine runs with.

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::loose::{self, Loose};

/// `GET /nodes/{node}/qemu/{vmid}/config?current=1`: what the running machine was started with, not
/// what it would be after its next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// The machine's identity, from `smbios1`. Made anew for each VM and clone, kept on migration.
    pub smbios_uuid: Option<Uuid>,
    /// Its name.
    pub name: Option<String>,
    /// Whether a reset lets the guest start again. With `reboot: 0` it ends the QEMU process instead.
    pub reboot: bool,
    /// What holds its configuration, such as `backup`.
    pub lock: Option<String>,
    /// A hash of the configuration: changes with it.
    pub digest: Option<String>,
    /// Whether a guest agent is enabled.
    pub agent: bool,
    /// Whether it is a template.
    pub template: bool,
    /// When the VM was created. A clone keeps it.
    pub created: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VmConfigBody {
    // Longer than what text::clean keeps: its other fields may be long.
    #[serde(default)]
    smbios1: Option<Loose>,
    #[serde(default, deserialize_with = "loose::text")]
    name: Option<String>,
    #[serde(default)]
    reboot: Option<Loose>,
    #[serde(default, deserialize_with = "loose::text")]
    lock: Option<String>,
    #[serde(default, deserialize_with = "loose::text")]
    digest: Option<String>,
    #[serde(default, deserialize_with = "loose::word")]
    agent: String,
    #[serde(default, deserialize_with = "loose::flag")]
    template: bool,
    #[serde(default, deserialize_with = "loose::word")]
    meta: String,
}

impl VmConfigBody {
    pub(crate) fn into_config(self) -> VmConfig {
        let smbios_uuid = match &self.smbios1 {
            Some(Loose::Text(text)) => smbios_uuid(text),
            _ => None,
        };
        VmConfig {
            smbios_uuid,
            name: self.name,
            reboot: !matches!(&self.reboot, Some(value) if *value != Loose::Nothing && !value.as_bool()),
            lock: self.lock,
            digest: self.digest,
            agent: agent_enabled(&self.agent),
            template: self.template,
            created: property(&self.meta, "ctime")
                .and_then(|seconds| seconds.parse().ok())
                .and_then(|seconds| Timestamp::from_second(seconds).ok()),
        }
    }
}

/// One value of a property string, `key=value,key=value`.
fn property<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(',').find_map(|pair| pair.trim().strip_prefix(key)?.strip_prefix('='))
}

/// The uuid out of `smbios1`. `base64=1` says that the *other* values are encoded; the uuid never is.
fn smbios_uuid(smbios1: &str) -> Option<Uuid> {
    // Uuid would also take forms without dashes, in braces and as a URN; Proxmox writes none of them.
    property(smbios1, "uuid")
        .filter(|text| text.len() == 36)
        .and_then(|text| text.parse().ok())
}

/// `1`, `enabled=1,fstrim_cloned_disks=1`, or `1,type=virtio`: `enabled` is the default key.
fn agent_enabled(text: &str) -> bool {
    let value = property(text, "enabled")
        .or_else(|| text.split(',').next().filter(|first| !first.contains('=')))
        .unwrap_or_default();
    Loose::Text(value.to_owned()).as_bool()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "6b4e8d2c-1f3a-4c5d-9e7f-0123456789ab";

    fn config(json: &str) -> VmConfig {
        serde_json::from_str::<VmConfigBody>(json).unwrap().into_config()
    }

    #[test]
    fn finds_the_uuid_in_smbios1() {
        let uuid: Uuid = UUID.parse().unwrap();
        for smbios1 in [
            format!("uuid={UUID}"),
            format!("uuid={}", UUID.to_uppercase()),
            format!("base64=1,manufacturer=UHJveG1veA==,uuid={UUID}"),
            format!("uuid={UUID},base64=1,serial=dXVpZD0="),
            format!("serial={},uuid={UUID}", "A".repeat(2000)),
        ] {
            assert_eq!(smbios_uuid(&smbios1), Some(uuid), "{smbios1}");
            let body = serde_json::json!({ "smbios1": smbios1 }).to_string();
            assert_eq!(config(&body).smbios_uuid, Some(uuid));
        }
        for smbios1 in [
            "",
            "uuid=",
            "uuid=nonsense",
            "xuuid=6b4e8d2c-1f3a-4c5d-9e7f-0123456789ab",
            "uuid=6b4e8d2c1f3a4c5d9e7f0123456789ab",
            "serial=uuid",
        ] {
            assert_eq!(smbios_uuid(smbios1), None, "{smbios1}");
        }
    }

    #[test]
    fn reboot_is_on_unless_switched_off() {
        assert!(config("{}").reboot);
        assert!(config(r#"{"reboot":null}"#).reboot);
        assert!(config(r#"{"reboot":1}"#).reboot);
        assert!(!config(r#"{"reboot":0}"#).reboot);
        assert!(!config(r#"{"reboot":"0"}"#).reboot);
        assert!(!config(r#"{"reboot":false}"#).reboot);
    }

    #[test]
    fn reads_the_rest_of_a_config() {
        let config = config(
            r#"{"name":"web1","lock":"backup","digest":"abc","agent":"enabled=1,fstrim_cloned_disks=1",
                "template":"1","meta":"creation-qemu=10.0.2,ctime=1714698787","cores":4}"#,
        );
        assert_eq!(config.name.as_deref(), Some("web1"));
        assert_eq!(config.lock.as_deref(), Some("backup"));
        assert_eq!(config.digest.as_deref(), Some("abc"));
        assert!(config.agent && config.template);
        assert_eq!(config.created.unwrap().as_second(), 1_714_698_787);
        for (agent, enabled) in [
            ("1", true),
            ("0", false),
            ("1,type=virtio", true),
            ("type=isa", false),
            ("enabled=0", false),
            ("type=isa,enabled=1", true),
            ("", false),
        ] {
            assert_eq!(agent_enabled(agent), enabled, "{agent}");
        }
    }

    proptest! {
        #[test]
        fn no_property_string_makes_the_parsers_panic(text in any::<String>()) {
            let _ = smbios_uuid(&text);
            let _ = agent_enabled(&text);
            let _ = property(&text, "ctime");
        }

        #[test]
        fn near_misses_do_not_panic(text in "(base64=1,)?(uuid|uuid=|serial)=?[0-9a-fA-F{}-]{30,40}(,.{0,8})?") {
            let _ = smbios_uuid(&text);
        }
    }
}
