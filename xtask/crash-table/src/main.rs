//! Plays a reset once to count its writes, to Kubernetes and to Proxmox alike, and then once for each of them, with the controller killed (or stopped, or
//! left without an answer) just before and just after it. See `cargo xtask crash-table --help`.

mod cell;
mod judge;
mod story;
mod table;

use anyhow::{Context, Result, bail};
use cell::{Cell, Row};
use clap::{Parser, ValueEnum};
use fault_proxy::Moment;
use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use story::{Harm, Point, Write, named};

/// Every write of a reset, and what becomes of it when the controller dies just there.
#[derive(Parser)]
#[command(name = "cargo xtask crash-table", bin_name = "cargo xtask crash-table")]
struct Options {
    /// What goes wrong at each write; several may be named, parted by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kill")]
    harm: Vec<Harm>,
    /// Before the server hears of the write, or after it has answered; both by default.
    #[arg(long, value_enum)]
    moment: Option<When>,
    /// Only these writes, numbered as the table numbers them.
    #[arg(long = "write", value_delimiter = ',')]
    writes: Vec<usize>,
    /// Rows beside `--harm`: standstills after the intent, after the request to Proxmox, and while the VM proves itself.
    #[arg(long)]
    three_stops: bool,
    /// A second controller stands by, and takes over.
    #[arg(long)]
    two: bool,
    /// The VM is powered off and on instead of reset: then a start is owed, whatever goes wrong. Each row takes a minute longer, for which the VM must run.
    #[arg(long)]
    power_cycle: bool,
    /// Labs side by side. One needs about 1 GiB.
    #[arg(long, default_value_t = 4)]
    cells: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    Before,
    After,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let handle = runtime.handle();
    println!("The story, without harm:");
    let mut first = Cell::start(handle.clone(), options.two, options.power_cycle)?;
    let story = first.play(None)?;
    table::print_story(&story);
    if !story.wrong.is_empty() {
        bail!("the story goes wrong by itself: {}\n{}", story.wrong.join("; "), first.log());
    }
    let points = points(options, &named(&story.writes));
    println!("\n{} rows, {} labs side by side", points.len(), options.cells.max(1));
    table::print_header();

    let todo = Mutex::new(VecDeque::from(points));
    let rows = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    let work = |cell: Option<Cell>| {
        let played = || -> Result<()> {
            let mut cell = cell.map_or_else(|| Cell::start(handle.clone(), options.two, options.power_cycle), Ok)?;
            loop {
                // The lock is not to be held while the story is played.
                let next = lock(&todo).pop_front();
                let Some(point) = next else { break };
                let mut row = play(&mut cell, &point)?;
                if !row.met && point.write.is_in_each() {
                    row.wrong.push("the write never came".into());
                }
                table::print_row(&row);
                if !row.wrong.is_empty() {
                    println!("{}", cell.log());
                }
                lock(&rows).push(row);
            }
            cell.stop()
        };
        if let Err(error) = played() {
            lock(&failures).push(format!("{error:#}"));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.cells.max(1) {
            scope.spawn(|| work(None));
        }
        work(Some(first));
    });
    let mut rows: Vec<Row> = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row| {
        row.point
            .as_ref()
            .map(|p| (p.harm as u8, p.write.number, p.moment == Moment::After))
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let good = table::print_summary(&rows, &failures);
    Ok(good)
}

/// A story that had no such write is played again, twice at most.
fn play(cell: &mut Cell, point: &Point) -> Result<Row> {
    let mut again = 2;
    loop {
        let row = cell
            .play(Some(point.clone()))
            .with_context(|| format!("{point} {}\n{}", point.write, cell.log()))?;
        if row.met || !row.wrong.is_empty() || again == 0 {
            return Ok(row);
        }
        again -= 1;
    }
}

/// The rows: those that take longest first, so that the labs end at about the same time.
fn points(options: &Options, writes: &[Write]) -> Vec<Point> {
    let moments = match options.moment {
        None => vec![Moment::Before, Moment::After],
        Some(When::Before) => vec![Moment::Before],
        Some(When::After) => vec![Moment::After],
    };
    let mut points = Vec::new();
    for &harm in &options.harm {
        for write in writes
            .iter()
            .filter(|w| options.writes.is_empty() || options.writes.contains(&w.number))
        {
            points.extend(moments.iter().map(|&moment| Point {
                harm,
                moment,
                write: write.clone(),
            }));
        }
    }
    if options.three_stops {
        for words in [INTENT, POST, "journal: task ended"] {
            points.extend(find(writes, words).map(|write| Point {
                harm: Harm::Stop,
                moment: Moment::After,
                write: write.clone(),
            }));
        }
    }
    let number = |words| find(writes, words).map_or(0, |w| w.number);
    let (intent, post) = (number(INTENT), number(POST));
    // Between the intent and the request, whoever comes after must search for 100 s for a task that there is not.
    let is_long = |p: &Point| {
        let place = (p.write.number, p.moment == Moment::After);
        p.harm.stops() || (place >= (intent, true) && place <= (post, false))
    };
    points.sort_by_key(|p| !is_long(p));
    points
}

const INTENT: &str = "journal: intent";
const POST: &str = "POST reset";

fn find<'a>(writes: &'a [Write], words: &str) -> Option<&'a Write> {
    writes.iter().find(|write| write.label.contains(words))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Whoever panicked beside us has left plain lists.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
