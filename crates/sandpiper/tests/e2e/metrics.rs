//! What a sandbox is said to use is what it uses.

use std::time::Instant;

use connectrpc::ErrorCode;
use connectrpc::client::{ClientConfig, HttpClient};
use proto::hostagent::v1::{
    CreateSandboxRequest, ExecRequest, FlushSandboxMetricsRequest, GetSandboxMetricsRequest, HostAgentServiceClient,
    MetricPoint,
};
use testkit::wait_for;

use super::rpc::Role;

/// Works half of the time, writes 30 MB, and prints when that began and ended and the share that its own kernel saw.
const HALF_A_LOAD: &str = r#"
look() { read -r _ user nice system idle iowait irq softirq steal _ < /proc/stat
         busy=$((user + nice + system + irq + softirq)); total=$((busy + idle + iowait + steal)); }
head -c 30000000 /dev/urandom > /srv/written; sync
look; busy0=$busy total0=$total; date +%s
for i in $(seq 12); do
  end=$(( ${EPOCHREALTIME/./} + 500000 ))
  while (( ${EPOCHREALTIME/./} < end )); do :; done
  sleep 0.5
done
look; date +%s; echo $(( (busy - busy0) * 1000 / (total - total0) ))
"#;

/// How long the threads of a process have been ready to run and did not.
fn seconds_waited(pid: u64) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statistics = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let nanoseconds = statistics.filter_map(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    nanoseconds.sum::<u64>() as f64 / 1e9
}

#[tokio::test]
async fn metrics_follow_a_known_load() {
    let agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    let client = HostAgentServiceClient::new(HttpClient::plaintext(), ClientConfig::new(agent.url.parse().unwrap()));
    let request = CreateSandboxRequest { template: "minimal".into(), memory_mb: 256, ..Default::default() };
    let sandbox_id = client.create_sandbox(request).await.unwrap().into_owned().sandbox_id;
    let points = async |range: &str| -> Result<Vec<MetricPoint>, _> {
        let request =
            GetSandboxMetricsRequest { sandbox_id: sandbox_id.clone(), range: range.to_owned(), ..Default::default() };
        client.get_sandbox_metrics(request).await.map(|answer| answer.into_owned().points)
    };
    let first = wait_for("a first point", async || points("10m").await.unwrap().first().cloned()).await;
    assert!(first.mem_bytes < 256 << 20, "{first:?}");

    // A busy host gives the guest less than the guest believes; the rest of what it believes was spent waiting, though
    // not all waiting was the guest's. On an idle host this is: within a fifth of what the guest measured.
    let record = agent.data_dir.path().join("sandboxes").join(&sandbox_id).join("vmm.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let monitor = record["pid"].as_u64().unwrap();
    let mut tries = Vec::new();
    let agrees = |(guest, host, waited): &(f64, f64, f64)| *host <= guest * 1.2 && host + waited >= guest * 0.8;
    while !tries.iter().any(agrees) {
        assert!(tries.len() < 5, "never within a fifth of what the guest measured: {tries:?}");
        let exec = ExecRequest {
            sandbox_id: sandbox_id.clone(),
            cmd: "/bin/bash".into(),
            args: vec!["-c".into(), HALF_A_LOAD.into()],
            timeout_sec: 120,
            ..Default::default()
        };
        let (began, waited) = (Instant::now(), seconds_waited(monitor));
        let output = client.exec(exec).await.unwrap().into_owned();
        let waited = (seconds_waited(monitor) - waited) / began.elapsed().as_secs_f64() * 100.0;
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let [from, to, permille] = numbers[..] else { panic!("{text}") };
        let guest = permille as f64 / 10.0;
        assert!((30.0..=90.0).contains(&guest), "the load is a known one: {guest} %");
        let seen = points("10m").await.unwrap();
        let during: Vec<f64> = seen
            .iter()
            .filter(|point| (from + 2..=to).contains(&point.timestamp_unix))
            .map(|point| point.cpu_pct)
            .collect();
        assert!(during.len() >= 5, "a point each second: {seen:?}");
        assert!(seen.iter().all(|point| (0.0..=100.0).contains(&point.cpu_pct)), "{seen:?}");
        let host = during.iter().sum::<f64>() / during.len() as f64;
        assert!(host >= 10.0, "the host sees a load: {host} %");
        tries.push((guest, host, waited));
    }

    let last = points("10m").await.unwrap().pop().unwrap();
    assert!((10 << 20..256 << 20).contains(&last.mem_bytes), "{last:?}");
    assert!((30_000_000..200_000_000).contains(&last.disk_bytes), "{last:?}");
    let idle = wait_for("an idle second", async || points("10m").await.unwrap().pop().filter(|now| now.cpu_pct < 15.0));
    idle.await;
    assert!(!points("2h").await.unwrap().is_empty() && !points("24h").await.unwrap().is_empty());
    assert_eq!(points("1h").await.unwrap_err().code, ErrorCode::InvalidArgument);

    let flush = FlushSandboxMetricsRequest { sandbox_id: sandbox_id.clone(), ..Default::default() };
    let flushed = client.flush_sandbox_metrics(flush).await.unwrap().into_owned();
    assert!(flushed.points_10m.len() >= 10, "{flushed:?}");
    assert!(!flushed.points_2h.is_empty() && !flushed.points_24h.is_empty());
    assert!(points("10m").await.unwrap().len() < flushed.points_10m.len(), "what was flushed is forgotten");
    let nobody = GetSandboxMetricsRequest { sandbox_id: "sb0".into(), range: "10m".into(), ..Default::default() };
    assert_eq!(client.get_sandbox_metrics(nobody).await.unwrap_err().code, ErrorCode::NotFound);
}
