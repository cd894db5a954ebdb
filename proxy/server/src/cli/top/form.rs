//! What `spillway top` asks before it puts a tenant into quarantine: what, of whom, for how long, and why; then once more
//! whether it is meant.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use crate::admin::status::Tenant;

/// Let through of a slowed tenant, as a share of the server's time.
const SLOW: f32 = 0.05;
/// Of a reason, in characters; the process takes so many.
const LONGEST: usize = 200;
/// From here on a name may have been cut on its way here.
const CUT: usize = 200;

/// What can be changed, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Reason,
    Lasts,
    Action,
    Scope,
}

const FIELDS: [Field; 4] = [Field::Reason, Field::Lasts, Field::Action, Field::Scope];

/// A measure to be taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) tenant: String,
    /// Only in this class.
    pub(super) class: Option<String>,
    /// To this share; else nothing is let through.
    pub(super) slow: Option<f32>,
    pub(super) reason: String,
    pub(super) lasts: Duration,
}

/// What a key leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// There is more to say.
    Stay,
    /// Nothing is done.
    Leave,
    /// It is meant.
    Take(Wish),
}

/// The questions, and what was answered so far.
#[derive(Debug)]
pub(super) struct Form {
    tenant: String,
    class: String,
    field: Field,
    reason: String,
    lasts: String,
    slow: bool,
    whole: bool,
    /// All is said: is it meant?
    sure: bool,
    problem: Option<String>,
}

impl Form {
    /// For the tenant of a row.
    ///
    /// # Errors
    /// With what to do instead, if the row does not say who it is.
    pub(super) fn new(tenant: &Tenant) -> Result<Self, String> {
        if tenant.tenant.len() >= CUT {
            return Err(
                "its name is too long to be shown whole; name it: spillway quarantine add --tenant"
                    .to_owned(),
            );
        }
        Ok(Self {
            tenant: tenant.tenant.clone(),
            class: tenant.class.clone(),
            field: Field::Reason,
            reason: String::new(),
            lasts: "30m".to_owned(),
            slow: false,
            whole: false,
            sure: false,
            problem: None,
        })
    }

    /// Follows a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        self.problem = None;
        if self.sure {
            return match key.code {
                KeyCode::Char('y' | 'Y') => self.wish().map_or(Next::Stay, Next::Take),
                KeyCode::Esc | KeyCode::Char('n' | 'N' | 'q') => Next::Leave,
                // Enter alone, pressed once too often, must not do it.
                _ => Next::Stay,
            };
        }
        let plain = !key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return Next::Leave,
            KeyCode::Enter => match self.wish() {
                Ok(_) => self.sure = true,
                Err(problem) => self.problem = Some(problem),
            },
            KeyCode::Tab | KeyCode::Down => self.step(1),
            KeyCode::BackTab | KeyCode::Up => self.step(FIELDS.len() - 1),
            KeyCode::Backspace => {
                if let Some(text) = self.text() {
                    text.pop();
                }
            }
            KeyCode::Char(letter) if plain && !letter.is_control() => self.type_in(letter),
            KeyCode::Left | KeyCode::Right => self.type_in(' '),
            _ => {}
        }
        Next::Stay
    }

    fn step(&mut self, fields: usize) {
        let at = FIELDS.iter().position(|field| *field == self.field);
        let next = FIELDS.get((at.unwrap_or(0) + fields) % FIELDS.len());
        self.field = next.copied().unwrap_or(Field::Reason);
    }

    fn text(&mut self) -> Option<&mut String> {
        match self.field {
            Field::Reason => Some(&mut self.reason),
            Field::Lasts => Some(&mut self.lasts),
            Field::Action | Field::Scope => None,
        }
    }

    fn type_in(&mut self, letter: char) {
        match self.field {
            Field::Action if letter == ' ' => self.slow = !self.slow,
            Field::Scope if letter == ' ' => self.whole = !self.whole,
            _ => {
                if let Some(text) = self.text().filter(|text| text.chars().count() < LONGEST) {
                    text.push(letter);
                }
            }
        }
    }

    /// # Errors
    /// With what is missing.
    fn wish(&self) -> Result<Wish, String> {
        let reason = self.reason.trim();
        if reason.is_empty() {
            return Err(
                "say why: those who are refused, and the next on call, will ask".to_owned(),
            );
        }
        let lasts = config::parse_duration(self.lasts.trim())?;
        if lasts < Duration::from_secs(1) {
            return Err("it lasts 1s to 720h (30 days)".to_owned());
        }
        Ok(Wish {
            tenant: self.tenant.clone(),
            class: (!self.whole).then(|| self.class.clone()),
            slow: self.slow.then_some(SLOW),
            reason: reason.to_owned(),
            lasts,
        })
    }

    fn lines(&self) -> Vec<Line<'static>> {
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        let line = |field: Field, name: &str, value: String| {
            let style = match self.field == field && !self.sure {
                true => chosen,
                false => Style::new(),
            };
            Line::from(vec![
                Span::raw(format!("{name:<8}")),
                Span::styled(format!("{value} "), style),
            ])
        };
        let action = match self.slow {
            true => format!("slow to {:.0}% of the server's time", SLOW * 100.0),
            false => "block: nothing is let through".to_owned(),
        };
        let scope = match self.whole {
            true => "all it sends, life signs excepted".to_owned(),
            false => format!("what it sends in class {}", self.class),
        };
        let mut lines = vec![
            line(Field::Reason, "reason", self.reason.clone()),
            line(Field::Lasts, "for", self.lasts.clone()),
            line(Field::Action, "what", action),
            line(Field::Scope, "of", scope),
            Line::default(),
        ];
        let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        lines.push(match (&self.problem, self.sure) {
            (Some(problem), _) => Line::styled(problem.clone(), alarm),
            (None, true) => Line::styled("Put it into quarantine? y yes  n no", alarm),
            (None, false) => Line::raw("tab next  space changes  enter goes on  esc leaves"),
        });
        lines
    }

    /// Draws it over the middle of the frame.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let inner = Rect {
            x: area.width / 10,
            y: area.height / 3,
            width: area.width * 4 / 5,
            height: 8,
        }
        .intersection(area);
        let title = format!(" Quarantine {} ", self.tenant);
        let text = Paragraph::new(self.lines()).block(Block::bordered().title(title));
        frame.render_widget(Clear, inner);
        frame.render_widget(text, inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        let tenant = serde_json::json!({
            "tenant": "jane", "class": "bulk", "kind": "long", "shape": null, "instances": 1,
            "requests_per_second": 1.0, "demand_cores": 1.0, "refused_ratio": 0.0, "share_ratio": 1.0,
            "surging_since": null, "user_level": 1,
        });
        let tenant = serde_json::from_value(tenant).expect("a tenant");
        Form::new(&tenant).expect("a form")
    }

    fn press(form: &mut Form, keys: &[KeyCode]) -> Next {
        let mut next = Next::Stay;
        for key in keys {
            next = form.press(KeyEvent::from(*key));
        }
        next
    }

    fn write(form: &mut Form, text: &str) {
        for letter in text.chars() {
            press(form, &[KeyCode::Char(letter)]);
        }
    }

    #[test]
    fn nothing_is_taken_without_a_reason_and_a_yes() {
        let mut form = form();
        assert_eq!(
            press(&mut form, &[KeyCode::Enter, KeyCode::Char('y')]),
            Next::Stay
        );
        assert_eq!(form.reason, "y", "still asking why");
        press(&mut form, &[KeyCode::Backspace]);
        write(&mut form, "INC-1");
        assert_eq!(press(&mut form, &[KeyCode::Enter; 3]), Next::Stay);
        let Next::Take(wish) = press(&mut form, &[KeyCode::Char('y')]) else {
            panic!("not taken");
        };
        assert_eq!(
            wish,
            Wish {
                tenant: "jane".into(),
                class: Some("bulk".into()),
                slow: None,
                reason: "INC-1".into(),
                lasts: Duration::from_secs(1800),
            }
        );
    }

    #[test]
    fn what_how_long_and_of_whom_can_be_changed() {
        let mut form = form();
        write(&mut form, "why");
        press(&mut form, &[KeyCode::Tab, KeyCode::Backspace]);
        press(&mut form, &[KeyCode::Enter]);
        assert!(form.problem.is_some() && !form.sure, "30 of what?");
        write(&mut form, "s");
        press(&mut form, &[KeyCode::Tab, KeyCode::Char(' ')]);
        press(&mut form, &[KeyCode::Down, KeyCode::Right, KeyCode::Enter]);
        let Next::Take(wish) = press(&mut form, &[KeyCode::Char('y')]) else {
            panic!("not taken");
        };
        assert_eq!(wish.lasts, Duration::from_secs(30));
        assert_eq!((wish.slow, wish.class), (Some(SLOW), None));
    }

    #[test]
    fn one_can_leave_at_any_time() {
        assert_eq!(press(&mut form(), &[KeyCode::Esc]), Next::Leave);
        let mut form = form();
        write(&mut form, "q");
        for no in [KeyCode::Char('n'), KeyCode::Esc] {
            press(&mut form, &[KeyCode::Enter]);
            assert_eq!(press(&mut form, &[no]), Next::Leave);
        }
    }
}
