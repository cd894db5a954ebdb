//! A headless Chromium, driven over a pipe by its DevTools protocol: no socket, nothing to install beside it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// How long anything may take before it counts as hung; browsers are slow to start on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// The browser of this machine, if there is one. `SPILLWAY_CHROMIUM` names another.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SPILLWAY_CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|path| path.is_file())
}

/// One browser with one tab. Ends when dropped.
pub(crate) struct Chromium {
    child: Child,
    to: ChildStdin,
    from: mpsc::Receiver<Value>,
    next: u64,
    session: String,
    /// Errors of the page, its scripts and its policy, as the browser reports them.
    pub(crate) complaints: Vec<String>,
}

impl Chromium {
    /// Starts `browser` with its profile in `folder`.
    pub(crate) fn start(browser: &Path, folder: &Path) -> Self {
        // The protocol is on descriptors 3 and 4; only a shell moves them there without anything unsafe.
        const MOVE: &str = "exec 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null; exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", MOVE])
            .arg(browser)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--no-default-browser-check",
                "--no-proxy-server",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
            ])
            .arg(format!("--user-data-dir={}", folder.display()));
        // Chromium refuses to sandbox what root runs.
        if rustix::process::getuid().is_root() {
            command.arg("--no-sandbox");
        }
        let mut child = command
            .env("HOME", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let to = child.stdin.take().expect("piped");
        let out = child.stdout.take().expect("piped");
        let (sender, from) = mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(out).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            to,
            from,
            next: 0,
            session: String::new(),
            complaints: Vec::new(),
        };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let tab = json!({ "targetId": tab["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", tab);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the protocol and gives its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .expect("the browser listens");
        self.to.flush().expect("the browser listens");
        loop {
            let answer = self.from.recv_timeout(BOUND);
            let answer = answer.unwrap_or_else(|_| panic!("{method}: the browser does not answer"));
            if answer["id"] == id {
                assert_eq!(answer["error"], Value::Null, "{method}");
                return answer["result"].clone();
            }
            self.heard(&answer);
        }
    }

    fn heard(&mut self, event: &Value) {
        let params = &event["params"];
        let complaint = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => params["exceptionDetails"].to_string(),
            "Runtime.consoleAPICalled" if params["type"] == "error" => params["args"].to_string(),
            "Log.entryAdded" if params["entry"]["level"] == "error" => params["entry"].to_string(),
            _ => return,
        };
        self.complaints.push(complaint);
    }

    /// The value of an expression in the page; a promise is awaited.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let wish = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let done = self.call("Runtime.evaluate", wish);
        assert_eq!(done["exceptionDetails"], Value::Null, "{expression}");
        done["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&mut self, what: &str, expression: &str) {
        let since = Instant::now();
        while self.value(&format!("Boolean({expression})")) != json!(true) {
            if since.elapsed() > BOUND {
                let text = self.value("document.body.innerText");
                panic!("{what}: never; the page says {text}; {:?}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens an address.
    pub(crate) fn open(&mut self, address: &str) {
        let done = self.call("Page.navigate", json!({ "url": address }));
        assert_eq!(done["errorText"], Value::Null, "{address}");
    }

    /// Makes the page as wide and as dark as a device's.
    pub(crate) fn device(&mut self, (width, height): (u32, u32), dark: bool) {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", screen);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Writes a picture of the page to the folder that `SPILLWAY_SCREENSHOTS` names, if it does.
    pub(crate) fn picture(&mut self, name: &str, whole: bool) {
        let Some(folder) = std::env::var_os("SPILLWAY_SCREENSHOTS") else {
            return;
        };
        let wish = json!({ "format": "png", "captureBeyondViewport": whole });
        let taken = self.call("Page.captureScreenshot", wish);
        let taken = taken["data"].as_str().expect("base64").to_owned();
        let taken = base64::engine::general_purpose::STANDARD
            .decode(taken)
            .expect("base64");
        let file = Path::new(&folder).join(format!("{name}.png"));
        std::fs::write(file, taken).expect("written");
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.next += 1;
        let message = json!({ "id": self.next, "method": "Browser.close" });
        let _ = self.to.write_all(format!("{message}\0").as_bytes());
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
