//! Lists of sandboxes.

use serde_json::json;

use super::{error, id, sandbox};
use crate::fixture::{Fixture, answer};

#[tokio::test]
async fn lists_have_pages_that_go_on_in_their_own_order() {
    let server = Fixture::start().await;
    server.create().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(id(&sandbox(&server, json!({"metadata": {"k": "v"}})).await).to_owned());
    }
    let page = async |query: &str| {
        let response = server.http.get(server.url(&format!("/v2/sandboxes?{query}"))).send().await.unwrap();
        let token = response.headers().get("x-next-token").map(|token| token.to_str().unwrap().to_owned());
        let (status, body) = answer(response).await;
        assert_eq!(status, 200, "{body}");
        (body.as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<Vec<_>>(), token)
    };
    let (first, token) = page("limit=2&order=asc").await;
    let token = token.unwrap();
    assert_eq!(page(&format!("limit=2&order=asc&nextToken={token}")).await, (made[2..].to_vec(), None));
    assert_eq!(first, made[..2]);
    let (status, body) = server.get(&format!("/v2/sandboxes?nextToken={token}")).await;
    assert_eq!((status.as_u16(), body), (400, error(400, "Invalid next token")));
    assert_eq!(page("metadata=k%3Dv&state=running%2Cpaused").await.0.len(), 3);
    assert_eq!(page("metadata=k%3Dother").await.0.len(), 0);
    assert_eq!(server.get("/sandboxes").await.1.as_array().unwrap().len(), 3, "what another surface made is not seen");
}
