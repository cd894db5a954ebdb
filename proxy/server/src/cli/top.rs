//! `spillway top`: who costs what, live.

mod form;
mod screen;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::admin_client::{AdminClient, Failed};
use super::output::{Format, print};
use super::{Command, Reach, quarantine};
use crate::admin::status::Status;
use form::{Next, Wish};
use screen::Screen;

const EXAMPLES: &str = "Examples:
  spillway top                     live; arrows select, e explains, Q puts into quarantine, q quits
  spillway top --once              one look, as a table
  spillway top --once -o json | jq '.tenants[0]'

Works while the apiserver is down.";

/// Show lanes, classes, limits, the probe, refusals and the tenants that cost most, live.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    /// Look once and end.
    #[arg(long)]
    once: bool,
    /// Look this often, 200ms to 1m.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
    #[command(flatten)]
    reach: Reach,
}

impl Command for TopArgs {
    fn run(self) -> Result<(), Failed> {
        let client = self.reach.client();
        let first: Status = client.get("/status")?;
        let live = !self.once
            && self.reach.output == Format::Table
            && std::io::stdout().is_terminal()
            && std::io::stdin().is_terminal();
        if !live {
            print(self.reach.output, &first, screen::once);
            return Ok(());
        }
        let interval = self
            .interval
            .clamp(Duration::from_millis(200), Duration::from_secs(60));
        let mut terminal = ratatui::init();
        let result = live_view(&mut terminal, &client, first, interval);
        ratatui::restore();
        result.map_err(|problem| Failed::Refused {
            error: format!("the terminal cannot be used: {problem}"),
            next: Some("look once instead: spillway top --once".to_owned()),
        })
    }
}

fn live_view(
    terminal: &mut DefaultTerminal,
    client: &AdminClient,
    first: Status,
    interval: Duration,
) -> std::io::Result<()> {
    let mut screen = Screen::new(first);
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        let left = interval.saturating_sub(looked.elapsed());
        if event::poll(left)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && press(&mut screen, client, key)
            {
                return Ok(());
            }
            continue;
        }
        looked = Instant::now();
        if !screen.paused {
            // A process that goes away may come back: the last picture stays, and says so.
            screen.update(client.get("/status").map_err(|failed| failed.to_string()));
        }
    }
}

/// Follows a key; true to quit.
fn press(screen: &mut Screen, client: &AdminClient, key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return true;
    }
    screen.said = None;
    if let Some(form) = &mut screen.form {
        match form.press(key) {
            Next::Stay => return false,
            Next::Leave => screen.said = Some("nothing is changed".to_owned()),
            Next::Take(wish) => screen.said = Some(take(client, wish)),
        }
        screen.form = None;
        return false;
    }
    match key.code {
        KeyCode::Esc if screen.explaining => screen.explaining = false,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Down | KeyCode::Char('j') => screen.select(1),
        KeyCode::Up | KeyCode::Char('k') => screen.select(-1),
        KeyCode::PageDown => screen.select(10),
        KeyCode::PageUp => screen.select(-10),
        KeyCode::Enter | KeyCode::Char('e' | 'd') => screen.explaining = !screen.explaining,
        KeyCode::Char('Q') => screen.ask(),
        KeyCode::Char('p' | ' ') => screen.paused = !screen.paused,
        _ => {}
    }
    false
}

/// Puts a tenant into quarantine; what came of it.
fn take(client: &AdminClient, wish: Wish) -> String {
    let target = [("tenant", Some(wish.tenant)), ("class", wish.class)];
    let given = target
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    match quarantine::take(client, given, wish.slow, &wish.reason, wish.lasts) {
        Ok(done) => quarantine::told(&done, "in force"),
        Err(failed) => format!("NOT DONE: {failed}"),
    }
}
