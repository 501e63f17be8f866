//! A report as JSON, read in one pass and without judging it: a field of the wrong type is kept as what it is, so that the problem can be named exactly and the
//! other items of an array are read all the same. Only what is no JSON fails here.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Most items of an array of reports.
pub const MAX_ITEMS: usize = 1000;
/// Most disks of a report.
pub const MAX_DISKS: usize = 64;

/// One JSON value, with the content of lists and objects left out.
#[derive(Clone)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List,
    Object,
}

impl Json<'_> {
    /// The value for a message. Texts are not quoted: one of them may be a key in the wrong place.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Unsigned(n) => n.to_string(),
            Self::Negative(n) => n.to_string(),
            // A float that is written out has up to 320 digits.
            Self::Float(f) if *f == 0.0 || (1e-6..1e21).contains(&f.abs()) => f.to_string(),
            Self::Float(f) => format!("{f:e}"),
            Self::Text(_) => "a text".into(),
            Self::List => "a list".into(),
            Self::Object => "an object".into(),
        }
    }
}

/// A value, once it is there. `null` is the same as absent.
pub(super) type Slot<'a> = Option<Json<'a>>;

/// The body of a request.
pub(super) enum RawBody<'a> {
    One(Box<RawReport<'a>>),
    Many(Vec<RawItem<'a>>),
    TooMany,
    Other(Json<'a>),
}

/// An item of an array.
pub(super) enum RawItem<'a> {
    Report(Box<RawReport<'a>>),
    Other(Json<'a>),
}

/// A report with each field as it was written.
#[derive(Default)]
pub(super) struct RawReport<'a> {
    pub(super) key: Slot<'a>,
    pub(super) hostname: Slot<'a>,
    pub(super) machine_uuid: Slot<'a>,
    pub(super) cpu_percent: Slot<'a>,
    pub(super) memory_used_bytes: Slot<'a>,
    pub(super) memory_total_bytes: Slot<'a>,
    pub(super) disks: Option<RawDisks<'a>>,
    pub(super) uptime_seconds: Slot<'a>,
    pub(super) boot_id: Slot<'a>,
    pub(super) state: Slot<'a>,
    pub(super) supervised: Slot<'a>,
    pub(super) agent_version: Slot<'a>,
    pub(super) sent_at: Slot<'a>,
    /// A field that was written twice.
    pub(super) twice: Option<&'static str>,
}

pub(super) enum RawDisks<'a> {
    /// The first [`MAX_DISKS`] disks, and how many there were.
    List(Vec<RawDisk<'a>>, usize),
    Other(Json<'a>),
}

pub(super) enum RawDisk<'a> {
    Disk(DiskFields<'a>),
    Other(Json<'a>),
}

#[derive(Default)]
pub(super) struct DiskFields<'a> {
    pub(super) mount: Slot<'a>,
    pub(super) used_bytes: Slot<'a>,
    pub(super) total_bytes: Slot<'a>,
    pub(super) twice: Option<&'static str>,
}

/// Makes a visitor take every scalar, and hands it to `$wrap`.
macro_rules! scalars {
    ($wrap:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($wrap(Json::Null))
        }
        fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
            Ok($wrap(Json::Bool(v)))
        }
        fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
            Ok($wrap(Json::Unsigned(v)))
        }
        fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
            Ok($wrap(u64::try_from(v).map_or(Json::Negative(v), Json::Unsigned)))
        }
        fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
            Ok($wrap(Json::Float(v)))
        }
        fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
            Ok($wrap(Json::Text(Cow::Borrowed(v))))
        }
        fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
            Ok($wrap(Json::Text(Cow::Owned(v.to_owned()))))
        }
    };
}

/// A visitor for a value that is `$map` when it is an object and `$seq` when it is a list.
macro_rules! value {
    ($type:ident, $wrap:expr, $map:expr, $seq:expr) => {
        impl<'de> Deserialize<'de> for $type<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct V;
                impl<'de> Visitor<'de> for V {
                    type Value = $type<'de>;
                    scalars!($wrap);
                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                        $map(map)
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                        $seq(seq)
                    }
                }
                deserializer.deserialize_any(V)
            }
        }
    };
}

value!(Json, std::convert::identity, skip_map, skip_seq);
value!(
    RawBody,
    RawBody::Other,
    |map| read_report(map).map(|r| RawBody::One(Box::new(r))),
    read_items
);
value!(
    RawItem,
    RawItem::Other,
    |map| read_report(map).map(|r| RawItem::Report(Box::new(r))),
    |seq| skip_seq(seq).map(RawItem::Other)
);
value!(RawDisks, RawDisks::Other, |map| skip_map(map).map(RawDisks::Other), read_disks);
value!(RawDisk, RawDisk::Other, |map| read_disk(map).map(RawDisk::Disk), |seq| skip_seq(
    seq
)
.map(RawDisk::Other));

/// Name of a field, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Json<'de>, A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(Json::Object)
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Json<'de>, A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(Json::List)
}

fn read_items<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<RawBody<'de>, A::Error> {
    let mut items = Vec::new();
    while let Some(item) = seq.next_element()? {
        if items.len() == MAX_ITEMS {
            skip_seq(seq)?;
            return Ok(RawBody::TooMany);
        }
        items.push(item);
    }
    Ok(RawBody::Many(items))
}

fn read_disks<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<RawDisks<'de>, A::Error> {
    let mut disks = Vec::new();
    while disks.len() < MAX_DISKS {
        match seq.next_element()? {
            Some(disk) => disks.push(disk),
            None => {
                let count = disks.len();
                return Ok(RawDisks::List(disks, count));
            }
        }
    }
    let mut count = disks.len();
    while seq.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    Ok(RawDisks::List(disks, count))
}

fn read_report<'de, A: MapAccess<'de>>(mut map: A) -> Result<RawReport<'de>, A::Error> {
    let mut raw = RawReport::default();
    while let Some(Name(name)) = map.next_key()? {
        let (name, slot) = match &*name {
            "key" => ("key", &mut raw.key),
            "hostname" => ("hostname", &mut raw.hostname),
            "machineUUID" => ("machineUUID", &mut raw.machine_uuid),
            "cpuPercent" => ("cpuPercent", &mut raw.cpu_percent),
            "memoryUsedBytes" => ("memoryUsedBytes", &mut raw.memory_used_bytes),
            "memoryTotalBytes" => ("memoryTotalBytes", &mut raw.memory_total_bytes),
            "uptimeSeconds" => ("uptimeSeconds", &mut raw.uptime_seconds),
            "bootID" => ("bootID", &mut raw.boot_id),
            "state" => ("state", &mut raw.state),
            "supervised" => ("supervised", &mut raw.supervised),
            "agentVersion" => ("agentVersion", &mut raw.agent_version),
            "sentAt" => ("sentAt", &mut raw.sent_at),
            "disks" => {
                if raw.disks.replace(map.next_value()?).is_some() {
                    raw.twice.get_or_insert("disks");
                }
                continue;
            }
            // Newer agents may say more.
            _ => {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
        };
        if slot.replace(map.next_value()?).is_some() {
            raw.twice.get_or_insert(name);
        }
    }
    Ok(raw)
}

fn read_disk<'de, A: MapAccess<'de>>(mut map: A) -> Result<DiskFields<'de>, A::Error> {
    let mut raw = DiskFields::default();
    while let Some(Name(name)) = map.next_key()? {
        let (name, slot) = match &*name {
            "mount" => ("mount", &mut raw.mount),
            "usedBytes" => ("usedBytes", &mut raw.used_bytes),
            "totalBytes" => ("totalBytes", &mut raw.total_bytes),
            _ => {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
        };
        if slot.replace(map.next_value()?).is_some() {
            raw.twice.get_or_insert(name);
        }
    }
    Ok(raw)
}
