//! What applications lose when the primary changes: behind HAProxy with its published check, and behind bgsafe, in
//! the same script. Prints a Markdown table.
//!
//! `cargo run --release --example failover -- target/release/bgsafe [writers]`

use std::path::PathBuf;

use bgsafe::testing::failover::{Event, Front, Seen, run};
use bgsafe::testing::find::for_tests;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(program) = args.next().map(PathBuf::from).filter(|path| path.exists()) else {
        eprintln!("which bgsafe? name the program: target/release/bgsafe");
        std::process::exit(2);
    };
    let writers = args.next().and_then(|n| n.parse().ok()).unwrap_or(50);
    let server = for_tests().unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(1);
    });
    println!(
        "| event | in front | new primary after | acknowledged | errors | connections broken | longest pause | lost | doubled | reordered |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for event in Event::ALL {
        let policies: &[&str] = match event {
            Event::CannotSave => &["mitigate", "redirect"],
            _ => &["mitigate"],
        };
        row(event, "HAProxy", run(&server, &Front::Haproxy, event, writers));
        for policy in policies {
            let args = ["--policy", policy].map(String::from).to_vec();
            let name = if policies.len() == 1 { "bgsafe".to_owned() } else { format!("bgsafe, {policy}") };
            row(event, &name, run(&server, &Front::Bgsafe(program.clone(), args), event, writers));
        }
    }
}

fn row(event: Event, front: &str, seen: std::io::Result<Seen>) {
    match seen {
        Err(why) => println!("| {} | {front} | not run: {why} | | | | | | | |", event.name()),
        Ok(Seen { score, turned_after, .. }) => {
            let total = &score.total;
            let turned =
                turned_after.map_or("stayed".to_owned(), |after| format!("{:.2} s", after.as_secs_f64()));
            println!(
                "| {} | {front} | {turned} | {} | {} | {} | {:.2} s | {} | {} | {} |",
                event.name(),
                total.acknowledged,
                total.refused + total.unexpected,
                total.broken,
                total.longest_pause.as_secs_f64(),
                total.lost,
                total.doubled,
                total.reordered,
            );
            for (text, n) in &score.texts {
                eprintln!("{} behind {front}: {n} x {text}", event.name());
            }
        }
    }
}
