//! Text that came from Proxmox and goes to logs, conditions and errors.

/// Longest text taken over, in characters: it ends up in Kubernetes objects, which must stay small.
pub(crate) const MAX_CHARS: usize = 512;

/// Takes over foreign text: control characters become spaces (they could forge log lines or move a
/// terminal's cursor), outer white space goes, and more than [`MAX_CHARS`] characters are cut.
pub(crate) fn clean(text: &str) -> String {
    let mut chars = text.trim_matches(|c: char| c.is_whitespace() || is_unsafe(c)).chars();
    let mut cleaned: String = chars
        .by_ref()
        .take(MAX_CHARS - 1)
        .map(|c| if is_unsafe(c) { ' ' } else { c })
        .collect();
    match (chars.next(), chars.next()) {
        (None, _) => {}
        (Some(last), None) => cleaned.push(if is_unsafe(last) { ' ' } else { last }),
        (Some(_), Some(_)) => cleaned.push('…'),
    }
    cleaned
}

/// Also the invisible characters that reorder text on a screen.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether this is a name a Proxmox node can have. Node names become part of a URL's path, so
/// nothing else may get there.
pub(crate) fn is_node_name(name: &str) -> bool {
    // 63 is the limit of a DNS label, which a node name is.
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_and_bounds_foreign_text() {
        assert_eq!(clean("  VM 100 not running\n"), "VM 100 not running");
        assert_eq!(clean("\u{1b}\u{7} x \u{0}"), "x");
        assert_eq!(clean("a\r\nb\u{1b}[2Jc\u{202e}d"), "a  b [2Jc d");
        assert_eq!(clean(&"ä".repeat(512)), "ä".repeat(512));
        let cut = clean(&"ä".repeat(513));
        assert_eq!(cut.chars().count(), 512);
        assert!(cut.ends_with('…'));
    }

    #[test]
    fn node_names_cannot_leave_their_path_segment() {
        for good in ["pve1", "a", "PVE-2", "0"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a/b",
            "..",
            "a.b",
            "a%2fb",
            "a b",
            "ä",
            "a?b",
            "a\n",
            &"a".repeat(64),
        ] {
            assert!(!is_node_name(bad), "{bad:?}");
        }
    }
}
