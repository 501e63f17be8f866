//! Requests that were made beforehand. What changes from report to report has a fixed width and is written over in place.

use jiff::Timestamp;
use std::time::Instant;
use uuid::Uuid;

/// As the agent writes it, and as wide as every uptime and time that is written over it.
const UPTIME: &str = "1000000.00";
const SENT_AT: &str = "2026-01-01T00:00:00.000Z";
/// Uptime at the start, in hundredths of a second: twelve days, so that no VM is in its start-up grace, and room up to the same width.
const BOOTED: u64 = 100_000_000;

/// A VM as its agent knows it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Name of the VM and of its ManagedVM.
    pub name: String,
    /// SMBIOS UUID.
    pub uuid: Uuid,
    /// Boot id.
    pub boot_id: Uuid,
    /// Key of its agent.
    pub key: String,
}

impl Machine {
    /// A VM with a boot id of its own.
    pub fn new(name: &str, uuid: Uuid, key: String) -> Self {
        Self {
            name: name.into(),
            uuid,
            boot_id: Uuid::new_v4(),
            key,
        }
    }

    /// The report of its agent, with the key where it stands beside the fields.
    fn report(&self, key: Option<&str>) -> String {
        let key = key.map(|key| format!("\"key\":\"{key}\",")).unwrap_or_default();
        format!(
            concat!(
                "{{{key}\"hostname\":\"{name}\",\"machineUUID\":\"{uuid}\",\"bootID\":\"{boot}\",\"uptimeSeconds\":{uptime},\"state\":\"Running\",",
                "\"supervised\":true,\"cpuPercent\":12.5,\"memoryUsedBytes\":966367641,\"memoryTotalBytes\":2147483648,\"disks\":[",
                "{{\"mount\":\"/\",\"usedBytes\":11456236544,\"totalBytes\":34359738368}},",
                "{{\"mount\":\"/var/lib/data\",\"usedBytes\":51456236544,\"totalBytes\":107374182400}}],",
                "\"agentVersion\":\"0.1.0\",\"sentAt\":\"{sent_at}\"}}"
            ),
            key = key,
            name = self.name,
            uuid = self.uuid,
            boot = self.boot_id,
            uptime = UPTIME,
            sent_at = SENT_AT,
        )
    }
}

/// The times of the reports that are sent now.
pub struct Stamp {
    began: Instant,
    made: u64,
    uptime: String,
    sent_at: String,
}

impl Stamp {
    /// Of this moment. Uptimes count from the start of the process, so that no later run has a lower one.
    pub fn new() -> Self {
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let mut stamp = Self {
            began: *BEGAN.get_or_init(Instant::now),
            made: u64::MAX,
            uptime: UPTIME.into(),
            sent_at: SENT_AT.into(),
        };
        stamp.refresh();
        stamp
    }

    /// Brings it up to date. Within a hundredth of a second, the unit of uptimes, nothing is to be done.
    pub fn refresh(&mut self) {
        let hundredths = u64::try_from(self.began.elapsed().as_millis() / 10).unwrap_or_default();
        if hundredths == self.made {
            return;
        }
        self.made = hundredths;
        let uptime = BOOTED + hundredths;
        self.uptime = format!("{}.{:02}", uptime / 100, uptime % 100);
        self.sent_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    }
}

/// A request that was made beforehand.
pub struct Request {
    bytes: Vec<u8>,
    uptimes: Vec<usize>,
    sent_ats: Vec<usize>,
    reports: u64,
}

impl Request {
    /// A request with this body, which holds so many reports.
    pub fn new(host: &str, key: Option<&str>, body: &str, reports: usize) -> Self {
        let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let text = format!(
            "POST {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\nContent-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            defib::heartbeat::receiver::PATH,
            body.len(),
        );
        let places = |what: &str| text.match_indices(what).map(|(at, _)| at).collect();
        Self {
            uptimes: places(UPTIME),
            sent_ats: places(SENT_AT),
            reports: u64::try_from(reports).unwrap_or_default(),
            bytes: text.into_bytes(),
        }
    }

    /// How many reports it holds.
    pub fn reports(&self) -> u64 {
        self.reports
    }

    /// Its bytes, with these times in it.
    pub fn stamped(&mut self, stamp: &Stamp) -> &[u8] {
        for (places, text) in [(&self.uptimes, &stamp.uptime), (&self.sent_ats, &stamp.sent_at)] {
            for at in places {
                if let Some(place) = self.bytes.get_mut(*at..at + text.len()) {
                    place.copy_from_slice(text.as_bytes());
                }
            }
        }
        &self.bytes
    }
}

/// A request with one report and its key in the header, as the agent sends it.
pub fn single(machine: &Machine, host: &str) -> Request {
    Request::new(host, Some(&machine.key), &(machine.report(None) + "\n"), 1)
}

/// A request with one report of each of these VMs, each with its own key.
pub fn bulk(machines: &[Machine], host: &str) -> Request {
    let reports: Vec<String> = machines.iter().map(|machine| machine.report(Some(&machine.key))).collect();
    Request::new(host, None, &format!("[{}]", reports.join(",")), machines.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use defib::heartbeat::report::{Body, read};

    fn body(request: &mut Request, stamp: &Stamp) -> Vec<u8> {
        let bytes = request.stamped(stamp);
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        assert!(text.contains(&format!("Content-Length: {}\r\n", bytes.len() - head)), "{text}");
        bytes[head..].to_vec()
    }

    fn stamp(uptime: &str, sent_at: &str) -> Stamp {
        Stamp {
            uptime: uptime.into(),
            sent_at: sent_at.into(),
            ..Stamp::new()
        }
    }

    #[test]
    fn the_receiver_reads_the_times_that_were_stamped_last() {
        let machine = Machine::new("web-1", Uuid::from_u128(7), "k".into());
        let mut request = single(&machine, "h");
        for (uptime, sent_at) in [
            ("1000000.25", "2026-02-03T04:05:06.007Z"),
            ("1000431.50", "2026-02-03T04:12:18.000Z"),
        ] {
            let body = body(&mut request, &stamp(uptime, sent_at));
            let Ok(Body::One(item)) = read(&body) else {
                panic!("not one report")
            };
            let report = item.check().unwrap();
            assert_eq!(report.uptime_seconds, uptime.parse::<f64>().unwrap());
            assert_eq!(report.sent_at_ms.unwrap(), sent_at.parse::<Timestamp>().unwrap().as_millisecond());
            assert_eq!(report.machine_uuid, Some(machine.uuid));
        }
    }

    #[test]
    fn each_item_of_an_array_has_its_key_and_the_times() {
        let machines: Vec<Machine> = (0..3)
            .map(|i| Machine::new(&format!("web-{i}"), Uuid::from_u128(i), format!("key-{i}")))
            .collect();
        let mut request = bulk(&machines, "h");
        assert_eq!(request.reports(), 3);
        let body = body(&mut request, &stamp("1000009.75", "2026-02-03T04:05:06.007Z"));
        let Ok(Body::Many(items)) = read(&body) else { panic!("no array") };
        for (i, item) in items.iter().enumerate() {
            assert_eq!(item.key().unwrap(), Some(format!("key-{i}").as_str()));
            assert_eq!(item.check().unwrap().uptime_seconds, 1_000_009.75);
        }
        assert_eq!(items.len(), 3);
    }

    #[test]
    fn a_stamp_of_now_fits_into_its_place() {
        let stamp = Stamp::new();
        assert_eq!((stamp.uptime.len(), stamp.sent_at.len()), (UPTIME.len(), SENT_AT.len()));
    }
}
