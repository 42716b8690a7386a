//! Who may ask for what: tokens, signatures, control routes. Sections 8.2 and 8.3 of the contract, and of 8.1 the routes
//! that are not about files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use proto::direct::word::Word as Said;
use proto::direct::{Restoration, Word};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Agent, PATIENCE, open_directory};

const LIST: &str = "/process.Process/List";

fn sign(text: &str) -> String {
    let signature = STANDARD_NO_PAD.encode(Sha256::digest(text.as_bytes()));
    format!("v1_{}", signature.replace('+', "%2B").replace('/', "%2F"))
}

#[tokio::test]
async fn before_the_first_init_only_health_answers() {
    let agent = Agent::fresh();
    assert_eq!(agent.get("/health").await.0, 204);
    for path in ["/envs", "/metrics", "/files?path=/etc/passwd", "/nothing"] {
        assert_eq!(agent.get(path).await.0, 401, "{path}");
    }
    let directory = open_directory();
    let file = directory.path().join("f");
    assert_eq!(agent.put(&format!("/files?path={}", file.display()), "x").await.0, 401);
    assert!(!file.exists());
    let (status, error) = agent.call(LIST, "root", json!({})).await;
    assert_eq!((status, &error["code"]), (401, &json!(401)));
    agent.init(json!({})).await;
    assert_eq!(agent.get("/envs").await, (200, "{}".to_owned()));
}

#[tokio::test]
async fn control_routes_exist_for_the_host_alone() {
    let agent = Agent::with_control_peer("169.254.0.22");
    for path in ["/init", "/clock", "/sync", "/shutdown", "/settle", "/freeze", "/benchmark/spawn"] {
        assert_eq!(agent.get(path).await.0, 404, "GET {path}");
        assert_eq!(agent.put(path, "{}").await.0, 404, "POST {path}");
    }
    assert_eq!(agent.get("/envs").await.0, 401, "nothing was set");
    assert!(agent.direct().say(restoration("new")).is_err(), "it hangs up");
    assert_eq!(agent.get("/envs").await.0, 401, "nothing was set");
}

fn restoration(token: &str) -> Word {
    let restoration = Restoration {
        entropy: vec![1; 64],
        hostname: "sb1".to_owned(),
        access_token: token.to_owned(),
        ..Default::default()
    };
    Word { word: Some(Said::Restoration(Box::new(restoration))), ..Default::default() }
}

#[tokio::test]
async fn the_host_has_its_control_routes() {
    let agent = Agent::fresh();
    let answer = agent.http.post(agent.url("/init")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-envd-version"].to_str().unwrap()), (204, "0.6.13"));
    assert_eq!(agent.put("/sync", "").await.0, 204);
    let time = json!({ "timestamp": "2030-01-01T00:00:00Z" }).to_string();
    assert_eq!(agent.put("/clock", time).await.0, 404, "an ordinary program has no clock to set");
    assert_eq!(agent.put("/clock", "{}").await.0, 400);
    assert_eq!(agent.put("/shutdown", "").await.0, 404, "an ordinary program has no system to shut down");
    let (status, report) = agent.get("/benchmark/spawn?count=5&cmd=/bin/true").await;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((status, &report["count"]), (200, &json!(5)));
    assert!(report["min_us"].as_u64().unwrap() > 0 && report["median_us"].as_u64() >= report["min_us"].as_u64());
    assert_eq!(agent.get("/benchmark/spawn?count=1&cmd=/bin/false").await.0, 400);
}

#[tokio::test]
async fn a_frozen_agent_refuses_users_until_it_is_restored_with_a_new_token() {
    let agent = Agent::fresh();
    agent.init(json!({ "accessToken": "old" })).await;
    let envs = async |token: &str| {
        let request = agent.http.get(agent.url("/envs")).header("x-access-token", token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(envs("old").await, 200);
    assert_eq!(agent.put("/freeze", "").await.0, 204);
    assert_eq!(envs("old").await, 401);
    assert_eq!(agent.get("/files?path=/etc/passwd").await.0, 401);
    assert_eq!(agent.get("/health").await.0, 204);
    let refused = |word: Word| !agent.direct().say(word).unwrap().is_empty();
    let without = |change: fn(&mut Restoration)| {
        let mut word = restoration("new");
        let Some(Said::Restoration(restoration)) = &mut word.word else { unreachable!() };
        change(restoration);
        word
    };
    assert!(refused(Word::default()));
    assert!(refused(without(|restoration| restoration.entropy.clear())));
    assert!(refused(without(|restoration| restoration.entropy = vec![0; 257])));
    assert!(refused(without(|restoration| restoration.hostname = "-".to_owned())));
    assert!(refused(without(|restoration| restoration.nameservers = vec!["x".to_owned()])));
    let mut garbled = agent.direct();
    garbled.tell(b"nonsense").unwrap();
    assert!(garbled.hear().is_err(), "it hangs up");
    assert_eq!(envs("old").await, 401);

    let mut host = agent.direct();
    let clock = Word { word: Some(Said::ClockUnixNs(1_600_000_000_000_000_000)), ..Default::default() };
    for _ in 0..2 {
        assert_eq!(host.say(clock.clone()).unwrap(), "");
        assert_eq!(envs("old").await, 401, "the time alone makes nothing right");
    }
    assert_eq!(host.say(restoration("new")).unwrap(), "");
    assert_eq!((envs("old").await, envs("new").await), (401, 200));
    assert_eq!(host.say(clock).unwrap(), "", "the conversation goes on");
}

#[tokio::test]
async fn nonsense_in_init_changes_nothing() {
    let agent = Agent::fresh();
    for body in ["{", "3", r#"{"hostname":"a b"}"#, r#"{"nameservers":["x"]}"#, r#"{"timestamp":"now"}"#] {
        assert_eq!(agent.put("/init", body).await.0, 400, "{body}");
    }
    assert_eq!(agent.get("/envs").await.0, 401);
}

#[tokio::test]
async fn late_inits_do_not_count_and_an_absent_token_clears() {
    let agent = Agent::fresh();
    let at = |second: u8, value: &str| {
        let timestamp = format!("2026-01-01T00:00:{second:02}Z");
        json!({"timestamp": timestamp, "envVars": {"A": value}, "unknown": 1})
    };
    agent.init(at(5, "new")).await;
    agent.init(at(4, "late")).await;
    assert_eq!(agent.get("/envs").await, (200, r#"{"A":"new"}"#.to_owned()));
    agent.init(json!({"accessToken": "t"})).await;
    assert_eq!(agent.get("/envs").await.0, 401);
    agent.init(json!({})).await;
    assert_eq!(agent.get("/envs").await, (200, r#"{"A":"new"}"#.to_owned()));
}

#[tokio::test]
async fn with_a_token_every_route_asks_for_it() {
    let agent = Agent::fresh();
    agent.init(json!({"accessToken": "secret"})).await;
    let status = async |path: &str, token: Option<&str>| {
        let mut request = agent.http.get(agent.url(path)).timeout(PATIENCE);
        if let Some(token) = token {
            request = request.header("x-access-token", token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/health", None).await, 204);
    for path in ["/envs", "/metrics", "/files?path=/etc/passwd"] {
        assert_eq!(status(path, None).await, 401, "{path}");
        assert_eq!(status(path, Some("other")).await, 401, "{path}");
        assert_eq!(status(path, Some("secret")).await, 200, "{path}");
    }
    let posted = ["/files/compose", LIST, "/filesystem.Filesystem/Remove", "/files?path=/x", "/no/such"];
    for (token, message) in [(None, "missing access token"), (Some("other"), "invalid access token")] {
        for (path, kind) in posted.map(|path| (path, "application/json")).into_iter().chain([
            ("/process.Process/Start", "application/connect+json"),
            ("/process.Process/StreamInput", "application/connect+proto"),
            (LIST, "application/proto"),
        ]) {
            let mut request = agent.http.post(agent.url(path)).header("content-type", kind).body("{}");
            if let Some(token) = token {
                request = request.header("x-access-token", token);
            }
            let answer = request.send().await.unwrap();
            let is_signed = path.starts_with("/files?") && token.is_none();
            let message = if is_signed { "missing signature query parameter" } else { message };
            assert_eq!(answer.status(), 401, "{path}");
            assert_eq!(answer.text().await.unwrap(), format!(r#"{{"code":401,"message":"{message}"}}"#), "{path}");
        }
    }
}

#[tokio::test]
async fn a_signature_opens_one_file_for_one_purpose_and_time() {
    let agent = Agent::fresh();
    agent.init(json!({"accessToken": "secret"})).await;
    let read = sign("/etc/passwd:read:root:secret");
    let good = format!("/files?path=/etc/passwd&username=root&signature={read}");
    assert_eq!(agent.get(&good).await.0, 200);
    let error = |message: &str| (401, format!(r#"{{"code":401,"message":"{message}"}}"#));
    assert_eq!(agent.get("/files?path=/etc/passwd").await, error("missing signature query parameter"));
    assert_eq!(agent.get(&good.replace("passwd&", "group&")).await, error("invalid signature"));
    assert_eq!(agent.get(&good.replace("root", "daemon")).await, error("invalid signature"));
    assert_eq!(agent.put(&good, "x").await, error("invalid signature"));

    let dated = |at: i64| {
        let signature = sign(&format!("/etc/passwd:read::secret:{at}"));
        format!("/files?path=/etc/passwd&signature_expiration={at}&signature={signature}")
    };
    assert_eq!(agent.get(&dated(4_000_000_000)).await.0, 200);
    assert_eq!(agent.get(&dated(1)).await, error("signature is already expired"));

    // It is of the words that were sent, whatever they mean, and a token that comes along decides alone.
    let as_sent = sign("~/../etc/./passwd:read::secret");
    assert_eq!(agent.get(&format!("/files?path=~/../etc/./passwd&signature={as_sent}")).await.0, 200);
    assert_eq!(agent.get(&format!("/files?path=/etc/passwd&signature={as_sent}")).await, error("invalid signature"));
    let with_token = async |token: &str, path: &str| {
        let answer = agent.http.get(agent.url(path)).header("x-access-token", token).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(with_token("other", &good).await, error("invalid access token"));
    assert_eq!(with_token("secret", &dated(1)).await.0, 200);

    let directory = open_directory();
    let path = directory.path().join("f").display().to_string();
    let write = sign(&format!("{path}:write::secret"));
    let late = sign(&format!("{path}:write::secret:1"));
    let late = format!("/files?path={path}&signature_expiration=1&signature={late}");
    assert_eq!(agent.put(&late, "x").await, error("signature is already expired"));
    assert_eq!(agent.put(&format!("/files?path={path}&signature={write}"), "x").await.0, 200);
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[tokio::test]
async fn browsers_may_call_from_any_page() {
    let agent = Agent::open().await;
    let preflight = agent.http.request(reqwest::Method::OPTIONS, agent.url("/files?path=/x"));
    let preflight = preflight.header("access-control-request-method", "POST");
    let answer = preflight.header("access-control-request-headers", "content-type").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["access-control-allow-headers"]),
        (204, &"content-type".parse().unwrap())
    );
    let answer = agent.http.get(agent.url("/health")).send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn metrics_are_plausible() {
    let agent = Agent::open().await;
    let metrics: serde_json::Value = serde_json::from_str(&agent.get("/metrics").await.1).unwrap();
    let number = |name: &str| metrics[name].as_f64().unwrap_or_else(|| panic!("{name} in {metrics}"));
    assert!(number("ts") > 1e9 && number("cpu_count") >= 1.0 && (0.0..=100.0).contains(&number("cpu_used_pct")));
    assert!(number("mem_used") > 0.0 && number("mem_total") > number("mem_used") && number("mem_cache") > 0.0);
    let mib = |name: &str| (number(name) / f64::from(1 << 20)).floor();
    assert_eq!((number("mem_total_mib"), number("mem_used_mib")), (mib("mem_total"), mib("mem_used")));
    assert!(number("disk_used") > 0.0 && number("disk_total") >= number("disk_used"));
}
