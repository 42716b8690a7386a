//! Records on PostgreSQL.

use serde_json::{Value, json};
use testkit::Postgres;

use crate::server;

#[tokio::test]
async fn a_server_on_postgresql_runs_sandboxes_and_never_shows_its_password() {
    let server = server(&["--database-url", &Postgres::shared().database()]).await;
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "echo hello").await, (0, "hello\n".to_owned()));
    assert!(!server.data_dir().join("sandpiper.db").exists(), "no other database was made");
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    assert!(!server.log().contains(Postgres::PASSWORD), "{}", server.log());
}
