//! The table as it is printed.

use crate::cell::Row;
use crate::story::named;

/// The writes of the story, numbered.
pub fn print_story(story: &Row) {
    for write in named(&story.writes) {
        println!("{:>4}  {write}", write.number);
    }
    println!("      {} after {} s", story.outcome, story.took.as_secs());
}

/// The head of the table.
pub fn print_header() {
    println!("{:>4}  {:<20} {:<40} {:<14} {:>5}", "k", "harm", "write", "outcome", "s");
}

/// One row.
pub fn print_row(row: &Row) {
    let Some(point) = &row.point else { return };
    let (harm, write) = (point.to_string(), point.write.to_string());
    let verdict = if row.wrong.is_empty() {
        String::new()
    } else {
        format!("  WRONG: {}", row.wrong.join("; "))
    };
    println!(
        "{:>4}  {harm:<20} {write:<40} {:<14} {:>5}{verdict}",
        point.write.number,
        if row.met { row.outcome } else { "no such write" },
        row.took.as_secs()
    );
}

/// The whole table in order, and the sum. Whether all rows are right.
pub fn print_summary(rows: &[Row], failures: &[String]) -> bool {
    println!("\nIn order:");
    print_header();
    for row in rows {
        print_row(row);
    }
    for failure in failures {
        println!("could not be played: {failure}");
    }
    let wrong = rows.iter().filter(|row| !row.wrong.is_empty()).count();
    let unmet = rows.iter().filter(|row| !row.met).count();
    let count = |outcome: &str| rows.iter().filter(|row| row.met && row.outcome == outcome).count();
    println!(
        "{} rows: {} Recovered, {} Unknown; {wrong} wrong, {unmet} without their write, {} could not be played",
        rows.len(),
        count("Recovered"),
        count("Unknown"),
        failures.len()
    );
    wrong == 0 && failures.is_empty()
}
