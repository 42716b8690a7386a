//! Headless Chromium, driven over the WebDriver protocol.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::wait_for;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with a profile of its own.
pub struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
    _profile: TempDir,
}

impl Browser {
    pub async fn start() -> Self {
        let mut command = std::process::Command::new("chromedriver");
        // A group of its own, so that whatever it starts can be ended with it.
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut driver = Command::from(command).kill_on_drop(true).spawn().expect("`make test` installs chromedriver");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("chromedriver says its port");
            if let Some(port) = line.split("successfully on port ").nth(1) {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = tempfile::tempdir().unwrap();
        let http = reqwest::Client::new();
        let base = format!("http://127.0.0.1:{port}/session");
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--window-size=1280,1600",
                format!("--user-data-dir={}", profile.path().display()),
            ],
        }}}});
        let answer: Value = http.post(&base).json(&wanted).send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        Self { driver, session: format!("{base}/{id}"), http, _profile: profile }
    }

    /// Ends the browser and its driver.
    pub async fn quit(mut self) {
        self.http.delete(&self.session).send().await.unwrap();
        self.driver.kill().await.unwrap();
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{command}", self.session)).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()["value"].take()
    }

    pub async fn open(&self, url: &str) {
        self.post("url", json!({"url": url})).await;
    }

    /// What a script returns that runs in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    async fn element(&self, css: &str) -> String {
        wait_for(css, async || {
            let found = self.post("element", json!({"using": "css selector", "value": css})).await;
            found[ELEMENT].as_str().map(str::to_owned)
        })
        .await
    }

    /// Waits until there is such an element, and clicks on it.
    pub async fn click(&self, css: &str) {
        let element = self.element(css).await;
        wait_for(&format!("{css} to take a click"), async || {
            self.post(&format!("element/{element}/click"), json!({})).await.is_null().then_some(())
        })
        .await;
    }

    /// Waits until there is such an element, and returns its text.
    pub async fn text(&self, css: &str) -> String {
        self.element(css).await;
        let script = format!("return document.querySelector({}).innerText", json!(css));
        self.run(&script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Writes what is seen to a PNG file.
    pub async fn screenshot(&self, path: &Path) {
        let url = format!("{}/screenshot", self.session);
        let answer: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let encoded = answer["value"].as_str().unwrap_or_else(|| panic!("no picture: {answer}"));
        std::fs::write(path, base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap();
    }
}
