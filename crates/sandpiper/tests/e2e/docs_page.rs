//! The page at `/docs`, as a person uses it in a browser.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;

use futures::FutureExt;
use serde_json::{Value, json};

use super::browser::Browser;
use super::server;

/// Swagger UI's element of the call that the test tries out.
const LIST: &str = "#operations-sandboxes-listSandboxes";

#[tokio::test]
async fn a_call_is_tried_out_in_a_browser() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let browser = Browser::start().await;
    let tried = AssertUnwindSafe(try_out(&browser, server.url(), &id)).catch_unwind().await;
    // Also when that failed: a browser must not outlive its test.
    browser.quit().await;
    if let Err(panic) = tried {
        resume_unwind(panic);
    }
}

async fn try_out(browser: &Browser, url: &str, id: &str) {
    browser.open(&format!("{url}/docs#/sandboxes/listSandboxes")).await;
    assert_eq!(browser.run("return document.title").await, "Wrenn Sandbox API");
    // The link opened the operation.
    browser.click(&format!("{LIST}.is-open .try-out__btn")).await;
    browser.click(&format!("{LIST} .execute")).await;
    let status = browser.text(&format!("{LIST} .live-responses-table .response .response-col_status")).await;
    assert!(status.starts_with("200"), "{status}");
    let answer = browser.text(&format!("{LIST} .live-responses-table .response .response-col_description")).await;
    assert!(answer.contains(id) && answer.contains("\"running\""), "{answer}");
    assert_eq!(browser.run("return document.querySelectorAll('.topbar').length").await, 0, "the top bar is hidden");
    let elsewhere = "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith(location.origin) \
                     && !r.name.startsWith('data:')).map(r => r.name)";
    assert_eq!(browser.run(elsewhere).await, Value::Array(Vec::new()), "nothing comes from elsewhere");
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs.png");
    browser.screenshot(&picture).await;
    assert!(picture.metadata().unwrap().len() > 20_000, "{} shows something", picture.display());
}
