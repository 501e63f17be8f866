//! Two stories side by side, as `diff -u` has them.

/// Lines around a difference.
const AROUND: usize = 2;

/// The lines that differ, with some around them.
pub fn diff(kept: &str, told: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), told.lines().collect());
    // Length of the longest common part of what is left of both, from each pair of lines on.
    let mut common = vec![vec![0u32; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            common[i][j] = if a == b {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines: Vec<(char, &str)> = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let near = |n: usize| {
        let (from, to) = (n.saturating_sub(AROUND), (n + AROUND + 1).min(lines.len()));
        lines[from..to].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut shown = String::new();
    for (n, (mark, line)) in lines.iter().enumerate() {
        if near(n) {
            shown.push_str(&format!("{mark} {line}\n"));
        }
    }
    shown
}

#[test]
fn a_difference_is_shown_with_what_is_around_it() {
    let old = "1\n2\n3\n4\n5\n6\n7\n8\n";
    let new = "1\n2\n3\n4\nfive\n6\n7\n8\n";
    assert_eq!(diff(old, new), "  3\n  4\n- 5\n+ five\n  6\n  7\n");
    assert_eq!(diff(old, old), "");
    assert_eq!(diff("", "1\n"), "+ 1\n");
}
