//! Several control planes on one PostgreSQL: any of them answers, one of them reconciles.

use std::time::Duration;

use control_plane::Config;
use serde_json::{Value, json};
use testkit::Postgres;

use crate::fixture::Fixture;

/// A control plane on this database, and on the host of another one where there is one.
async fn control_plane(url: &str, beside: Option<&Fixture>) -> Fixture {
    Fixture::with(|config: &mut Config| {
        config.store = url.parse().unwrap();
        config.reconcile_interval = Duration::from_millis(50);
        config.drain = Duration::from_millis(100);
        if let Some(other) = beside {
            config.host_agent = other.config.host_agent.clone();
            config.token_key = other.config.token_key.clone();
        }
    })
    .await
}

async fn report(server: &Fixture) -> Value {
    server.get("/v1/reconciler").await.1
}

#[tokio::test]
async fn any_of_them_answers_and_one_of_them_reconciles() {
    let url = Postgres::shared().database();
    let mut first = control_plane(&url, None).await;
    let second = control_plane(&url, Some(&first)).await;
    let (one, other) = (report(&first).await, report(&second).await);
    assert_eq!((&one["leads"], &other["leads"], &other["passes"]), (&json!(true), &json!(false), &json!(0)));

    let id = first.create().await;
    let sandbox = format!("/v1/sandboxes/{id}");
    assert_eq!(second.post(&format!("{sandbox}/pause"), json!(null)).await.0, 200);
    assert_eq!(first.status(&id).await, "paused");
    assert_eq!(second.post(&format!("{sandbox}/resume"), json!(null)).await.0, 200);

    first.stop().await;
    // The fixture's host lives on; only its first control plane is gone.
    first.host.update(|state| state.sandboxes.remove(&id));
    second.until_status(&id, "stopped").await;
    assert_eq!(report(&second).await["leads"], true);
}

#[tokio::test]
async fn what_another_control_plane_is_working_on_is_not_taken_for_abandoned() {
    let url = Postgres::shared().database();
    let mut first = control_plane(&url, None).await;
    let gate = first.host.hold("create");
    let request = tokio::spawn(first.http.post(first.url("/v1/sandboxes")).body("{}").send());
    let id = first.until_listed().await;
    // It starts and finds an unfinished record that is no older process's leftover.
    let second = control_plane(&url, Some(&first)).await;
    assert_eq!(second.status(&id).await, "pending");
    gate.add_permits(1);
    assert_eq!(request.await.unwrap().unwrap().status(), 201);
    assert_eq!(second.status(&id).await, "running");
    first.stop().await;
    first.host.update(|state| state.sandboxes.clear());
    second.until_status(&id, "stopped").await;
}

#[tokio::test]
async fn what_a_control_plane_that_is_gone_was_working_on_is_settled_and_the_work_of_others_is_not() {
    let url = Postgres::shared().database();
    let mut first = control_plane(&url, None).await;
    let second = control_plane(&url, Some(&first)).await;
    let _gate = first.host.hold("create");
    let create = |server: &Fixture| tokio::spawn(server.http.post(server.url("/v1/sandboxes")).body("{}").send());
    let _begun = create(&first);
    let abandoned = first.until_listed().await;
    let _goes_on = create(&second);
    first.host.until(|state| state.calls.iter().filter(|call| call.starts_with("create ")).count() == 2).await;
    // It does not wait for its work, and closes its way to the records: as if it had been killed.
    first.stop().await;
    second.until_status(&abandoned, "error").await;
    let (_, list) = second.get("/v1/sandboxes").await;
    let mut statuses: Vec<_> =
        list.as_array().unwrap().iter().map(|sandbox| sandbox["status"].as_str().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["error", "pending"]);
}
