//! Chromium by its driver: the few commands of the WebDriver protocol that a test needs.
//!
//! Invariant: driver and browser end with the [`Browser`], the driver by its pid, the browser by its session.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bgsafe::admin::client;
use bgsafe::http::exchange;
use bgsafe::testing::server::free_port;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::common::eventually;

const BODY_BYTES_MAX: usize = 32 << 20;

pub struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    page: std::cell::RefCell<String>,
    runtime: tokio::runtime::Runtime,
}

fn on_path(names: &[&str]) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH")?;
    let all = std::env::split_paths(&dirs).flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    all.into_iter().find(|path| path.is_file())
}

impl Browser {
    pub fn start(width: u32, height: u32) -> Option<Browser> {
        Browser::start_with(width, height, &[])
    }

    pub fn start_dark(width: u32, height: u32) -> Option<Browser> {
        Browser::start_with(width, height, &["--blink-settings=preferredColorScheme=0"])
    }

    fn start_with(width: u32, height: u32, more: &[&str]) -> Option<Browser> {
        let chromium = on_path(&["chromium", "chromium-browser", "google-chrome"]);
        let (Some(driver), Some(chromium)) = (on_path(&["chromedriver"]), chromium) else {
            eprintln!("SKIPPED: no chromedriver with Chromium on PATH; apt-get install chromium-driver");
            return None;
        };
        let port = free_port().unwrap();
        let mut command = Command::new(driver);
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut browser = Browser { driver, at, session: String::new(), page: Default::default(), runtime };
        eventually("the driver", Duration::from_secs(20), || std::net::TcpStream::connect(at).is_ok());
        let size = format!("--window-size={width},{height}");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &size,
        ];
        let args: Vec<&str> = args.into_iter().chain(more.iter().copied()).collect();
        // A window has a smallest width of its own; a phone's is the emulated one.
        let mobile = json!({"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}});
        let mut options = json!({"args": args, "binary": chromium});
        if width < 500 {
            options["mobileEmulation"] = mobile;
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let session = browser.call("POST", "/session", Some(wanted));
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    pub fn go(&self, url: &str) {
        *self.page.borrow_mut() = url.to_owned();
        self.here("POST", "/url", Some(json!({ "url": url })));
    }

    /// What the script returns.
    pub fn script(&self, code: &str) -> Value {
        self.here("POST", "/execute/sync", Some(json!({"script": code, "args": []})))
    }

    /// What a plain GET of a path at the page's address answers.
    pub fn status_of(&self, path: &str) -> u16 {
        let page = self.page.borrow();
        let address = page.trim_start_matches("http://").trim_end_matches('/').to_owned();
        self.runtime.block_on(client::get(address, path)).map_or(0, |(code, _)| code)
    }

    /// Warnings and errors of the console: blocked by the policy, not found, thrown.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.here("POST", "/se/log", Some(json!({"type": "browser"})));
        let lines = log.as_array().into_iter().flatten();
        lines.filter(|line| line["level"] != "INFO").map(|line| line["message"].to_string()).collect()
    }

    /// Keeps a picture, where somebody wants to look at it.
    pub fn shot(&self, name: &str) {
        let Some(dir) = std::env::var_os("BGSAFE_SHOTS") else { return };
        let picture = self.here("GET", "/screenshot", None);
        let file = PathBuf::from(dir).join(format!("{name}.png.b64"));
        std::fs::write(file, picture.as_str().unwrap_or_default()).unwrap();
    }

    fn here(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.call(method, &format!("{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let body = body.map_or_else(String::new, |body| body.to_string());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.at.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let at = self.at.to_string();
        let (code, text) = self.runtime.block_on(async {
            let asked = exchange(&at, request, BODY_BYTES_MAX);
            tokio::time::timeout(Duration::from_secs(60), asked).await.expect("in time").unwrap()
        });
        let mut answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {code} {text}"));
        assert!(code == 200, "{path}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.here("DELETE", "", None);
        } else if !self.session.is_empty() {
            let request = Request::delete(self.session.as_str()).header("host", self.at.to_string());
            if let Ok(request) = request.body(Full::new(Bytes::new())) {
                let _ = self.runtime.block_on(exchange(&self.at.to_string(), request, 0));
            }
        }
        // Both fail only when it has ended already.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
