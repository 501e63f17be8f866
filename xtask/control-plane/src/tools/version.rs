use std::fmt;
use std::str::FromStr;

/// A released version: `major.minor.patch`. Pre-release and build suffixes are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch version, 0 if not said.
    pub patch: u32,
}

impl Version {
    /// The first thing in the text that looks like a version: `v1.37.2`, `go1.26.8`, `3.7.3`.
    pub(crate) fn find_in(text: &str) -> Option<Self> {
        let starts = text.char_indices().filter(|&(at, c)| {
            let before = text[..at].chars().next_back();
            c.is_ascii_digit() && !before.is_some_and(|before| before.is_ascii_digit() || before == '.')
        });
        starts.filter_map(|(at, _)| Self::at_start_of(&text[at..])).next()
    }

    fn at_start_of(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text[..end].split('.').filter(|part| !part.is_empty()).map(u32::from_str);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        Some(Self {
            major,
            minor,
            patch: parts.next().and_then(Result::ok).unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_tools_say_them() {
        let found = |text: &str| Version::find_in(text).map(|version| version.to_string());
        assert_eq!(found("Kubernetes v1.37.2\n").as_deref(), Some("v1.37.2"));
        assert_eq!(
            found("etcd Version: 3.7.3\nGit SHA: Not provided\nGo Version: go1.26.8").as_deref(),
            Some("v3.7.3")
        );
        assert_eq!(found("go version go1.26.8 linux/amd64").as_deref(), Some("v1.26.8"));
        assert_eq!(
            found(r#"version.BuildInfo{Version:"v4.3", GitCommit:"" }"#).as_deref(),
            Some("v4.3.0")
        );
        assert_eq!(found("Client Version: v1.32.4-dispatcher").as_deref(), Some("v1.32.4"));
        assert_eq!(found("Kubernetes v0.0.0-master+$Format:%H$").as_deref(), Some("v0.0.0"));
        assert_eq!(found("2 errors, no version"), None);
        assert_eq!(found(""), None);
    }
}
