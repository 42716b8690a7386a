//! What takes disk space, as each owner may see it.

use connectrpc::ErrorCode;
use serde_json::{Value, json};

use crate::fake_host::SNAPSHOT_BYTES;
use crate::fixture::{Fixture, answer, code};

#[tokio::test]
async fn owners_see_what_is_theirs_and_what_all_share_and_the_rest_as_one_number() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.post(&format!("/v1/sandboxes/{id}/snapshots"), json!({"name": "base"})).await;
    let (status, disk) = server.get("/v1/disk").await;
    assert_eq!(status, 200, "{disk}");
    assert_eq!(
        (&disk["total_bytes"], &disk["free_bytes"], &disk["reserve_bytes"]),
        (&json!(1_i64 << 40), &json!(1_i64 << 39), &json!(1_i64 << 30))
    );
    let seen = |disk: &Value| {
        let uses = disk["uses"].as_array().unwrap().iter();
        uses.map(|one| (one["kind"].as_str().unwrap().to_owned(), one["bytes"].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let shared = [("template".to_owned(), 9000), ("bake".to_owned(), 3000), ("monitor".to_owned(), 500)];
    let own = [("snapshot".to_owned(), SNAPSHOT_BYTES), ("sandbox".to_owned(), 100)];
    let expected = [&shared[0], &own[0], &shared[1], &shared[2], &own[1], &("other".to_owned(), 7)];
    assert_eq!(seen(&disk), expected.map(Clone::clone));
    assert_eq!((&disk["uses"][1]["name"], &disk["uses"][2]["prunable"]), (&json!("base"), &json!(true)));
    assert_eq!(disk["uses"][4]["id"], json!(id));

    let keys = control_plane::Keys::open(&server.config.store).await.unwrap();
    let (_, bob) = keys.create("bob", None).await.unwrap();
    let request = server.http.get(server.url("/v1/disk")).header("X-API-Key", bob);
    let (_, disk) = answer(request.send().await.unwrap()).await;
    let rest = ("other".to_owned(), SNAPSHOT_BYTES + 100 + 7);
    assert_eq!(seen(&disk), [&shared[0], &shared[1], &shared[2], &rest].map(Clone::clone));
}

#[tokio::test]
async fn a_host_that_cannot_tell_is_an_error() {
    let server = Fixture::start().await;
    server.host.fail("disk", ErrorCode::Internal, "no such file system");
    let (status, body) = server.get("/v1/disk").await;
    assert_eq!((status.as_u16(), code(&body)), (502, "agent_error"));
}
