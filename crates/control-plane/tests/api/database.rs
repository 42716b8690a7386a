//! The API on PostgreSQL, and while its database is away.

use serde_json::json;
use testkit::Postgres;

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn a_sandbox_lives_on_postgresql_and_its_record_survives_a_restart() {
    let url = Postgres::shared().database();
    let mut server = Fixture::with(|config| config.store = url.parse().unwrap()).await;
    let id = server.create().await;
    server.restart().await;
    let one = format!("/v1/sandboxes/{id}");
    for (action, becomes) in [("pause", "paused"), ("resume", "running")] {
        let (status, sandbox) = server.post(&format!("{one}/{action}"), json!(null)).await;
        assert_eq!((status.as_u16(), sandbox["status"].as_str()), (200, Some(becomes)));
    }
    assert_eq!(server.delete(&id).await.0, 204);
    assert_eq!(server.status(&id).await, "stopped");
}

#[tokio::test]
async fn a_database_that_is_away_is_503_and_is_used_again_when_it_is_back() {
    let cluster = Postgres::launch();
    let url = cluster.database();
    let server = Fixture::with(|config| config.store = url.parse().unwrap()).await;
    let id = server.create().await;
    cluster.stop();
    for path in ["/health".to_owned(), "/v1/sandboxes".to_owned(), format!("/v1/sandboxes/{id}")] {
        let (status, body) = server.get(&path).await;
        assert_eq!((status.as_u16(), code(&body)), (503, "unavailable"), "{path}: {body}");
        assert!(!body.to_string().contains(Postgres::PASSWORD));
    }
    let (status, body) = server.post("/v1/sandboxes", json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (503, "unavailable"), "{body}");
    cluster.start();
    assert_eq!(server.status(&id).await, "running");
    assert_eq!(server.get("/health").await.0, 200);
    assert_eq!(server.host.state().sandboxes.len(), 1, "the create that failed has left nothing");
}
