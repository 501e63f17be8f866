//! Figures, their targets, and how they are shown, kept and compared.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
}

impl Target {
    /// Whether a value is as it should be.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Below(limit) => value < limit,
        }
    }

    /// Whether more is better.
    fn wants_more(self) -> bool {
        matches!(self, Self::AtLeast(_))
    }

    fn sign_and_limit(self) -> (&'static str, f64) {
        match self {
            Self::AtLeast(limit) => (">=", limit),
            Self::AtMost(limit) => ("<=", limit),
            Self::Below(limit) => ("<", limit),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, limit) = self.sign_and_limit();
        write!(f, "{sign} {}", number(limit))
    }
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What, in words that stay the same from run to run: by them two runs are compared.
    pub figure: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it should be; none for a figure that is only told.
    pub target: Option<Target>,
}

impl Figure {
    /// A figure with a target.
    pub fn new(figure: impl Into<String>, value: f64, unit: &'static str, target: Target) -> Self {
        Self {
            target: Some(target),
            ..Self::told(figure, value, unit)
        }
    }

    /// A figure without a target: it explains another one.
    pub fn told(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            figure: figure.into(),
            value,
            unit,
            target: None,
        }
    }

    /// Whether its target was met, where it has one.
    pub fn met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.value))
    }
}

/// A figure as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    figure: String,
    value: f64,
    unit: String,
    target: Option<String>,
    met: Option<bool>,
}

/// The figures as they are written to a file.
///
/// # Errors
/// When one of them is no number that JSON knows.
pub fn to_json(figures: &[Figure]) -> Result<String> {
    let rows: Vec<Row> = figures
        .iter()
        .map(|f| Row {
            figure: f.figure.clone(),
            value: f.value,
            unit: f.unit.to_owned(),
            target: f.target.map(|t| t.to_string()),
            met: f.met(),
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// Values of an earlier run.
pub struct Earlier(Vec<Row>);

impl Earlier {
    /// Reads a file that an earlier run wrote.
    ///
    /// # Errors
    /// When it is not there, or no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no list of figures", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        Ok(Self(serde_json::from_str(text)?))
    }

    /// How a figure is now in relation to then. None where it was not measured then, in another unit, or as zero.
    fn compare(&self, figure: &Figure) -> Option<String> {
        let then = self.0.iter().find(|row| row.figure == figure.figure && row.unit == figure.unit)?;
        let ratio = figure.value / then.value;
        if !ratio.is_finite() {
            return None;
        }
        let verdict = match figure.target.map(Target::wants_more) {
            // Less than a hundredth is nothing.
            Some(_) if (ratio - 1.0).abs() < 0.01 => "",
            Some(more) if more == (ratio > 1.0) => " (better)",
            Some(_) => " (worse)",
            None => "",
        };
        Some(format!("{ratio:.2}{verdict}"))
    }
}

/// How rows are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Plain,
    /// As Markdown.
    Markdown,
}

/// The table of the figures; with the ratios to an earlier run, where there is one.
pub fn table(figures: &[Figure], earlier: Option<&Earlier>, style: Style) -> String {
    let mut head = vec!["figure", "value", "target", "met"];
    head.extend(earlier.map(|_| "now / then"));
    let mut rows: Vec<Vec<String>> = vec![head.into_iter().map(str::to_owned).collect()];
    for f in figures {
        let met = match f.met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        let mut row = vec![
            f.figure.clone(),
            format!("{} {}", number(f.value), f.unit).trim_end().to_owned(),
            f.target.map(|t| t.to_string()).unwrap_or_default(),
            met.to_owned(),
        ];
        row.extend(earlier.map(|e| e.compare(f).unwrap_or_else(|| "-".into())));
        rows.push(row);
    }
    match style {
        Style::Plain => plain(&rows),
        Style::Markdown => markdown(&rows),
    }
}

fn plain(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn markdown(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if let Some(head) = rows.first() {
        lines.insert(1.min(lines.len()), format!("|{}\n", " --- |".repeat(head.len())));
    }
    lines.concat()
}

/// A number as people read it: three digits or so, and thousands apart.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        s if s >= 100.0 || s.fract() == 0.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.find('.').map_or((text.as_str(), ""), |dot| text.split_at(dot));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        let left = whole.len() - i;
        if i > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests;
