//! What `spillway top` shows, drawn from one status document and the one before.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};

use crate::admin::status::{Bound, ClassStatus, Status, Tenant};
use crate::cli::output::{self, bytes, millis, moment, span};
use crate::overrides::ModeName;

const CLASSES: [&str; 10] = [
    "CLASS", "MODE", "RUN", "WAIT", "SHORT", "OF", "LONG", "OF", "SERVED/s", "SHED/s",
];
const TENANTS: [&str; 8] = [
    "TENANT", "CLASS", "REQ/s", "CORES", "SHARE", "REFUSED", "INST", "SENDS",
];

/// The state of the view.
#[derive(Debug)]
pub(super) struct Screen {
    status: Status,
    /// When the document before was made, and what each class had refused by then.
    before: Option<(u64, Vec<u64>)>,
    /// Why the last look failed.
    problem: Option<String>,
    /// Who is selected, by tenant, class and kind: rows move.
    selected: Option<(String, String, String)>,
    pub(super) explaining: bool,
    pub(super) paused: bool,
}

fn key(tenant: &Tenant) -> (String, String, String) {
    (
        tenant.tenant.clone(),
        tenant.class.clone(),
        tenant.kind.clone(),
    )
}

impl Screen {
    pub(super) fn new(status: Status) -> Self {
        Self {
            selected: status.tenants.first().map(key),
            status,
            before: None,
            problem: None,
            explaining: false,
            paused: false,
        }
    }

    /// Takes a new document, or the reason why there is none.
    pub(super) fn update(&mut self, looked: Result<Status, String>) {
        match looked {
            Err(problem) => self.problem = Some(problem),
            Ok(status) => {
                self.problem = None;
                let shed = self.status.classes.iter().map(|class| class.shed).collect();
                // Another process has counted from zero.
                self.before = (status.pid == self.status.pid).then_some((self.status.at, shed));
                self.status = status;
                if self.position().is_none() {
                    self.selected = self.status.tenants.first().map(key);
                }
            }
        }
    }

    fn position(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        let mut tenants = self.status.tenants.iter();
        tenants.position(|tenant| key(tenant) == *selected)
    }

    /// Selects a tenant so many rows further down.
    pub(super) fn select(&mut self, rows: isize) {
        let last = self.status.tenants.len().saturating_sub(1);
        let to = self
            .position()
            .unwrap_or(0)
            .saturating_add_signed(rows)
            .min(last);
        self.selected = self.status.tenants.get(to).map(key);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let head = self.head();
        let height = |lines: usize| Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX));
        let areas = Layout::vertical([
            height(head.len()),
            height(self.status.classes.len() + 2),
            Constraint::Min(4),
            Constraint::Length(1),
        ]);
        let [top, classes, tenants, keys] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(head), top);
        frame.render_widget(self.classes(), classes);
        let mut state = TableState::new().with_selected(self.position());
        frame.render_stateful_widget(self.tenants(), tenants, &mut state);
        frame.render_widget(self.keys(), keys);
        if self.explaining {
            self.explain(frame);
        }
    }

    fn head(&self) -> Vec<Line<'static>> {
        let status = &self.status;
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        let mode = match status.mode {
            ModeName::Enforce => Span::styled("enforce", bold),
            other => Span::styled(other.as_str().to_uppercase(), alarm),
        };
        let upstream = if status.upstream {
            Span::raw(format!("answers, {} late", millis(status.probe_delay_ms)))
        } else {
            Span::styled("DOES NOT ANSWER", alarm)
        };
        let mut lines = vec![
            Line::from(vec![
                Span::styled("spillway ", bold),
                Span::raw(format!("{} (pid {})  mode ", status.version, status.pid)),
                mode,
                Span::raw(match status.mode_changes.len() {
                    0 => "  apiserver ".to_owned(),
                    changes => format!(" ({changes} run-time changes)  apiserver "),
                }),
                upstream,
                Span::raw(format!("  tuner {} ({})", status.tuner, status.reason)),
            ]),
            Line::from(format!(
                "short {}   long {}   bytes {} of {}",
                used(&status.short),
                used(&status.long),
                bytes(status.bytes),
                if status.bytes_budget == u64::MAX {
                    "any".to_owned()
                } else {
                    bytes(status.bytes_budget)
                },
            )),
            Line::from(lanes(status)),
        ];
        if let Some(level) = &status.level {
            let text = format!("REFUSING beyond level {level}");
            lines.push(Line::styled(text, alarm));
        }
        if let Some(culprit) = &status.culprit {
            let text = |key: &str| {
                let text = culprit.get(key).and_then(serde_json::Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let text = format!("CULPRIT {}: {}", text("tenant"), text("shape"));
            lines.push(Line::styled(text, alarm));
        }
        if let Some(problem) = &self.problem {
            let first = problem.lines().next().unwrap_or_default();
            lines.push(Line::styled(
                format!("NO ANSWER, old picture: {first}"),
                alarm,
            ));
        }
        lines.push(Line::default());
        lines
    }

    fn classes(&self) -> Table<'static> {
        let rows = self.status.classes.iter().enumerate().map(|(at, class)| {
            let style = match (class.mode, self.shed_rate(at) > 0.0) {
                (ModeName::Enforce, false) => Style::new(),
                (ModeName::Enforce, true) => Style::new().fg(Color::Red),
                _ => Style::new().fg(Color::Yellow),
            };
            Row::new(class_cells(class, self.shed_rate(at))).style(style)
        });
        let widths = [18, 9, 6, 6, 8, 8, 8, 8, 9, 8].map(Constraint::Length);
        Table::new(rows, widths).header(header(&CLASSES))
    }

    fn shed_rate(&self, class: usize) -> f64 {
        let Some((at, shed)) = &self.before else {
            return 0.0;
        };
        let now = self.status.classes.get(class).map_or(0, |class| class.shed);
        let new = now.saturating_sub(shed.get(class).copied().unwrap_or(now));
        let seconds = self.status.at.saturating_sub(*at).max(1);
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let rate = new as f64 / seconds as f64;
        rate
    }

    fn tenants(&self) -> Table<'static> {
        let rows = self.status.tenants.iter().map(|tenant| {
            let style = if tenant.refused_ratio > 0.0 {
                Style::new().fg(Color::Red)
            } else {
                Style::new()
            };
            Row::new(tenant_cells(tenant)).style(style)
        });
        let widths = [
            Constraint::Fill(2),
            Constraint::Length(16),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Fill(2),
        ];
        Table::new(rows, widths)
            .header(header(&TENANTS))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
    }

    fn keys(&self) -> Line<'static> {
        let paused = if self.paused { "  PAUSED" } else { "" };
        let text = format!("↑↓ select  enter explain  p pause  q quit{paused}");
        Line::styled(text, Style::new().add_modifier(Modifier::DIM))
    }

    fn explain(&self, frame: &mut Frame<'_>) {
        let Some(tenant) = self.position().and_then(|at| self.status.tenants.get(at)) else {
            return;
        };
        let area = frame.area();
        let inner = Rect {
            x: area.width / 10,
            y: area.height / 6,
            width: area.width * 4 / 5,
            height: (area.height * 2 / 3).max(8).min(area.height),
        }
        .intersection(area);
        let class = self
            .status
            .classes
            .iter()
            .find(|class| class.class == tenant.class);
        let text = Paragraph::new(explanation(tenant, class, self.status.at))
            .wrap(Wrap { trim: false })
            .block(Block::bordered().title(format!(" {} ", tenant.tenant)));
        frame.render_widget(Clear, inner);
        frame.render_widget(text, inner);
    }
}

fn header(names: &[&'static str]) -> Row<'static> {
    Row::new(names.to_vec()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn used(bound: &Bound) -> String {
    format!(
        "{} of {} ({} run, {} wait)",
        millis(bound.outstanding_ms),
        millis(bound.ceiling_ms),
        bound.running,
        bound.waiting
    )
}

fn lanes(status: &Status) -> String {
    let mut text: Vec<String> = status
        .lanes
        .iter()
        .map(|lane| {
            let up = if lane.up { "" } else { " DOWN" };
            format!(
                "{} lane{up}: {} connections, {} in flight, {} sessions",
                lane.lane, lane.connections, lane.in_flight, lane.tunnels
            )
        })
        .collect();
    text.push(match &status.reserved_check {
        None => "reserved lane not tested".to_owned(),
        Some(check) if check.success => {
            format!("tested {} ago", span(status.at.saturating_sub(check.at)))
        }
        Some(check) => format!("RESERVED LANE FAILS: {}", check.what),
    });
    text.join("   ")
}

fn class_cells(class: &ClassStatus, shed_rate: f64) -> [String; 10] {
    let percent = class.enforced_percent;
    let mode = match class.mode {
        ModeName::Enforce if percent < 100.0 => format!("{percent:.0}%"),
        mode => mode.as_str().to_owned(),
    };
    [
        class.class.clone(),
        mode,
        (class.short.running + class.long.running).to_string(),
        (class.short.waiting + class.long.waiting).to_string(),
        millis(class.short.outstanding_ms),
        millis(class.short.ceiling_ms),
        millis(class.long.outstanding_ms),
        millis(class.long.ceiling_ms),
        format!("{:.1}", class.served_per_second),
        format!("{shed_rate:.1}"),
    ]
}

fn tenant_cells(tenant: &Tenant) -> [String; 8] {
    [
        tenant.tenant.clone(),
        tenant.class.clone(),
        format!("{:.1}", tenant.requests_per_second),
        format!("{:.2}", tenant.demand_cores),
        format!("{:.0}%", tenant.share_ratio * 100.0),
        format!("{:.0}%", tenant.refused_ratio * 100.0),
        tenant.instances.to_string(),
        tenant.shape.clone().unwrap_or_default(),
    ]
}

/// What is known about a tenant, and what that means for its requests.
fn explanation(tenant: &Tenant, class: Option<&ClassStatus>, now: u64) -> String {
    let mut text = format!(
        "class       {} ({} work)\nsends       {}\ninstances   {}\nrate        {:.1} requests/s\n\
         asks for    {:.2} cores, {:.0} % of what everybody asks for\nrefused     {:.0} %\nuser level  {} (0 goes first, 127 last)\n",
        tenant.class,
        tenant.kind,
        tenant
            .shape
            .as_deref()
            .unwrap_or("many things, none most of the time"),
        tenant.instances,
        tenant.requests_per_second,
        tenant.demand_cores,
        tenant.share_ratio * 100.0,
        tenant.refused_ratio * 100.0,
        tenant.user_level,
    );
    if let Some(since) = tenant.surging_since {
        let ago = span(now.saturating_sub(since));
        text += &format!(
            "surging     for {ago} (since {}): several times what it used to ask for\n",
            moment(since)
        );
    }
    if let Some(class) = class {
        let bound = if tenant.kind == "long" {
            &class.long
        } else {
            &class.short
        };
        text += &format!(
            "\nIts class has {} of {} in use, {} run and {} wait; mode {}.\n",
            millis(bound.outstanding_ms),
            millis(bound.ceiling_ms),
            bound.running,
            bound.waiting,
            class.mode.as_str()
        );
        text += match (class.mode, tenant.refused_ratio > 0.0) {
            (ModeName::Off, _) => "Nothing is decided: everything it sends is passed on.",
            (ModeName::Shadow, true) => "It would be refused in part, but is passed on.",
            (_, true) => {
                "There is more asked for than room; part of it is refused with 429 and Retry-After."
            }
            (_, false) => "There is room for it.",
        };
    }
    text
}

/// The same for one look without a terminal.
pub(super) fn once(status: &Status) -> String {
    let screen = Screen::new(status.clone());
    let mut text = String::new();
    for line in screen.head() {
        let spans = line.spans.iter().map(|span| span.content.as_ref());
        text += &(spans.collect::<String>() + "\n");
    }
    let mut classes = output::Table::new(&[
        "CLASS", "MODE", "RUN", "WAIT", "SHORT", "OF", "LONG", "OF", "SERVED/s", "SHED",
    ]);
    for class in &status.classes {
        let mut cells = class_cells(class, 0.0);
        if let Some(last) = cells.last_mut() {
            *last = class.shed.to_string();
        }
        classes.row(cells);
    }
    let mut tenants = output::Table::new(&TENANTS);
    for tenant in &status.tenants {
        tenants.row(tenant_cells(tenant));
    }
    format!("{text}{classes}\n{tenants}")
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
