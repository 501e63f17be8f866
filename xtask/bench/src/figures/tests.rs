use super::*;

fn figures() -> Vec<Figure> {
    vec![
        Figure::new("receiver: one by one", 31_234.4, "reports/s", Target::AtLeast(25_000.0)),
        Figure::new("memory: 10,000 VMs", 120.25, "MiB", Target::Below(100.0)),
        Figure::told("receiver: CPU of the API server", 0.1234, "cores"),
    ]
}

#[test]
fn a_file_has_the_five_fields_and_says_whether_the_target_was_met() {
    let rows: serde_json::Value = serde_json::from_str(&to_json(&figures()).unwrap()).unwrap();
    assert_eq!(
        rows[0],
        serde_json::json!({"figure": "receiver: one by one", "value": 31234.4, "unit": "reports/s", "target": ">= 25,000", "met": true})
    );
    assert_eq!((&rows[1]["target"], &rows[1]["met"]), (&"< 100".into(), &false.into()));
    assert!(rows[2]["target"].is_null() && rows[2]["met"].is_null());
}

#[test]
fn a_limit_itself_meets_at_least_and_at_most_but_not_below() {
    assert!(Target::AtLeast(2.0).is_met(2.0) && Target::AtMost(2.0).is_met(2.0) && !Target::Below(2.0).is_met(2.0));
    assert!(!Target::AtLeast(2.0).is_met(1.9) && !Target::AtMost(2.0).is_met(2.1) && Target::Below(2.0).is_met(1.9));
}

#[test]
fn what_a_run_wrote_a_later_run_compares_with() {
    let earlier = Earlier::parse(&to_json(&figures()).unwrap()).unwrap();
    let mut now = figures();
    now[0].value *= 2.0;
    now[1].value *= 2.0;
    now[2].value *= 2.0;
    let ratios: Vec<_> = now.iter().map(|f| earlier.compare(f).unwrap()).collect();
    assert_eq!(ratios, ["2.00 (better)", "2.00 (worse)", "2.00"]);
    assert_eq!(earlier.compare(&figures()[0]).unwrap(), "1.00");
}

#[test]
fn what_was_not_measured_then_has_no_ratio() {
    let mut then = figures();
    then[0].value = 0.0;
    let earlier = Earlier::parse(&to_json(&then).unwrap()).unwrap();
    assert_eq!(earlier.compare(&figures()[0]), None, "a ratio to zero is none");
    assert_eq!(earlier.compare(&Figure::told("new", 1.0, "s")), None);
    assert_eq!(
        earlier.compare(&Figure::told("memory: 10,000 VMs", 1.0, "KiB")),
        None,
        "another unit"
    );
}

#[test]
fn a_file_that_is_no_list_of_figures_is_refused() {
    assert!(Earlier::parse("{}").is_err());
    assert!(Earlier::parse(r#"[{"figure": "x"}]"#).is_err());
}

#[test]
fn a_missed_target_shows_in_the_table() {
    let text = table(&figures(), None, Style::Plain);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].ends_with("31,234 reports/s   >= 25,000   yes"), "{text}");
    assert!(lines[2].contains("120 MiB") && lines[2].ends_with("NO"), "{text}");
    assert!(lines[3].ends_with("0.123 cores"), "{text}");
}

#[test]
fn markdown_has_the_same_rows() {
    let earlier = Earlier::parse(&to_json(&figures()[..1]).unwrap()).unwrap();
    let text = table(&figures(), Some(&earlier), Style::Markdown);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "| figure | value | target | met | now / then |");
    assert_eq!(lines[1], "| --- | --- | --- | --- | --- |");
    assert_eq!(lines[2], "| receiver: one by one | 31,234 reports/s | >= 25,000 | yes | 1.00 |");
    assert_eq!(lines[3], "| memory: 10,000 VMs | 120 MiB | < 100 | NO | - |");
}

#[test]
fn numbers_are_shown_with_three_digits_or_so() {
    let shown = [1_234_567.8, 300_000.0, 250.4, 42.25, 9.5, 4.0, 0.2345, -1234.0].map(number);
    assert_eq!(shown, ["1,234,568", "300,000", "250", "42.2", "9.50", "4", "0.234", "-1,234"]);
}
