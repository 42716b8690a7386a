//! What sandboxes use.

use serde_json::json;

use super::{UNKNOWN, id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn metrics_are_those_of_the_time_that_is_asked_for() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let metrics = async |query: &str| server.get(&format!("/sandboxes/{}/metrics?{query}", id(&made))).await;
    let (status, all) = metrics("").await;
    assert_eq!((status.as_u16(), all.as_array().unwrap().len()), (200, 2), "{all}");
    let members = ["timestamp", "timestampUnix", "cpuCount", "cpuUsedPct", "memUsed", "memTotal", "memCache"];
    for member in members.into_iter().chain(["diskUsed", "diskTotal"]) {
        assert!(!all[0][member].is_null(), "{member}: {all}");
    }
    let last = all[1]["timestampUnix"].as_i64().unwrap();
    for (query, count) in
        [(format!("start={}", last - 60), 1), (format!("end={}", last - 60), 1), (format!("start={}", last + 60), 0)]
    {
        assert_eq!(metrics(&query).await.1.as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!((metrics("start=x").await.0.as_u16(), metrics("end=x").await.0.as_u16()), (400, 400));
}

#[tokio::test]
async fn metrics_of_several_are_those_of_the_callers_own() {
    let server = Fixture::start().await;
    let (one, other) = (sandbox(&server, json!({})).await, sandbox(&server, json!({})).await);
    let of = async |ids: &str| server.get(&format!("/sandboxes/metrics?sandbox_ids={ids}")).await;
    let (status, several) = of(&format!("{},{},{UNKNOWN}", id(&one), id(&other))).await;
    assert_eq!((status.as_u16(), several["sandboxes"].as_object().unwrap().len()), (200, 2), "{several}");
    assert_eq!(several["sandboxes"][id(&one)]["cpuUsedPct"], 12.5);
    assert_eq!((of("").await.0.as_u16(), of(&["a"; 101].join(",")).await.0.as_u16()), (400, 400));
}
