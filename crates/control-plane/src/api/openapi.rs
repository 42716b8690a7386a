//! The OpenAPI document: gathered from the handlers' own annotations, so that a route cannot be without one.
//!
//! What all operations share is added here: the errors of the guard, the `X-Request-Id` header, the error responses
//! that the operations point at. Knows nothing of what a handler does.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Router;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response, Schema,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use super::error::ErrorAnswer;

/// Every status that is an error: its number, its name in the document, and when it is answered.
const ERRORS: [(u16, &str, &str); 14] = [
    (400, "InvalidRequest", "`invalid_request`: no JSON, a wrong type, a missing member, a value outside its limits"),
    (401, "Unauthorized", "`unauthorized`: the server asks for an API key, and none or a wrong one came"),
    (403, "Forbidden", "`forbidden`: the guest may not do it; `foreign_origin`: a page of another site asks"),
    (404, "NotFound", "`not_found`: no such sandbox, template or file"),
    (408, "BodyTooSlow", "`timeout`: the request's body did not arrive in time"),
    (409, "Conflict", "`invalid_state`: not while the sandbox is in this state; `conflict`: another request won"),
    (413, "TooLarge", "`too_large`: the body or the file has more bytes than it may"),
    (421, "Misdirected", "`misdirected_request`: the Host header names another server"),
    (500, "ServerFault", "`db_error`, `internal`: a fault of the server; the reason is in its log"),
    (501, "Unimplemented", "`unimplemented`: the host agent cannot do this"),
    (502, "AgentError", "`agent_error`: the host agent or the guest failed"),
    (
        503,
        "Unavailable",
        "`host_unavailable`: the host agent cannot be reached; `unavailable`: there is no room; `stopping`: the server ends",
    ),
    (504, "TookTooLong", "`timeout`: a command, a guest or the host took too long"),
    (507, "NoSpace", "`no_space`: no disk space on the host or in the guest"),
];

/// What every operation may answer, whatever it does: the guard stands before all of them.
const EVERYWHERE: [u16; 2] = [403, 421];

/// What every operation may answer that asks who is there, which needs the records.
const WITH_KEY: [u16; 3] = [401, 500, 503];

/// The one operation that asks nobody for a key.
const WITHOUT_KEY: &str = "getHealth";

/// The two headers that a key can come in, as `auth` reads them.
const SCHEMES: [&str; 2] = ["ApiKey", "Bearer"];

type Responses = BTreeMap<String, RefOr<Response>>;

fn errors(statuses: &[u16]) -> Responses {
    let name = |status| ERRORS.iter().find(|error| error.0 == status).expect("every error is in the table").1;
    statuses.iter().map(|status| (status.to_string(), Ref::from_response_name(name(*status)).into())).collect()
}

macro_rules! error_group {
    ($(#[$doc:meta])* $name:ident, $statuses:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> Responses {
                errors(&$statuses)
            }
        }
    };
}

error_group! {
    /// The errors of whatever reads records.
    StoreErrors, [500]
}
error_group! {
    /// The errors of whatever reads one sandbox's record.
    RecordErrors, [404, 500]
}
error_group! {
    /// The errors of the health check.
    HealthErrors, [503]
}
error_group! {
    /// The errors of a file that comes in.
    UploadErrors, [408, 413]
}
error_group! {
    /// The errors of what is asked for in a query.
    QueryErrors, [400]
}
error_group! {
    /// The errors before a WebSocket begins.
    SocketErrors, [400, 404, 409, 500]
}
error_group! {
    /// The errors of a JSON body.
    JsonErrors, [400, 408, 413]
}
error_group! {
    /// The errors of what a host agent is asked to do with a sandbox.
    HostErrors, [400, 403, 404, 409, 500, 501, 502, 503, 504, 507]
}

/// A body that is bytes and nothing else.
pub struct FileBytes;

impl PartialSchema for FileBytes {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "string", "format": "binary"}))
    }
}

impl ToSchema for FileBytes {}

/// The `{id}` of a path.
pub struct SandboxIdParam;

impl IntoParams for SandboxIdParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The sandbox's id"))
            .schema(Some(schema(json!({"type": "string", "pattern": "^sb[a-z0-9]{20}$"}))));
        vec![parameter.build()]
    }
}

/// A schema that the derive macros cannot say, as JSON.
pub fn schema(value: Value) -> RefOr<Schema> {
    RefOr::T(serde_json::from_value(value).expect("the constant is a schema"))
}

/// The document before the handlers add their operations.
pub fn skeleton() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Wrenn Sandbox API")
        .description(Some(
            "MicroVM-based code execution platform API, as served by Sandpiper. Live output is a WebSocket; its \
             frames, and the rules that all requests share, are in docs/api.md.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
    let server = |url, description| ServerBuilder::new().url(url).description(Some(description)).build();
    let tag = |name, description| TagBuilder::new().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([server("/", "This server"), server("http://localhost:8080", "Local development")]))
        .tags(Some([
            tag("sandboxes", "Create, look at, pause, resume and delete sandboxes"),
            tag("commands", "Run programs in a sandbox"),
            tag("files", "Bytes into a sandbox and out of it"),
            tag("snapshots", "What was captured of sandboxes, and sandboxes made from that"),
            tag("capsules", "The same for programs that use the `wrenn` SDK"),
            tag("server", "The server itself"),
        ]))
        .build()
}

/// The document of a server whose routes have described themselves.
pub fn complete(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(ErrorAnswer::name().into_owned(), ErrorAnswer::schema());
    let mut more = Vec::new();
    ErrorAnswer::schemas(&mut more);
    components.schemas.extend(more);
    for (status, name, description) in ERRORS {
        components.responses.insert(name.to_owned(), error_response(status, description).into());
    }
    components.security_schemes.extend(schemes());
    document.security = Some(SCHEMES.map(|name| SecurityRequirement::new(name, NO_SCOPES)).into());
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
        operations.into_iter().flatten().for_each(complete_operation);
    }
    document
}

/// Keys have no scopes.
const NO_SCOPES: [&str; 0] = [];

fn schemes() -> BTreeMap<String, RefOr<SecurityScheme>> {
    let words = "An API key, from `sandpiper key create`. A server asks for none as long as there never was one.";
    let header = ApiKeyValue::with_description("X-API-Key", words);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(words)).build();
    let schemes = [SecurityScheme::ApiKey(ApiKey::Header(header)), SecurityScheme::Http(bearer)];
    SCHEMES.map(str::to_owned).into_iter().zip(schemes.map(RefOr::T)).collect()
}

fn complete_operation(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let asks_for_key = operation.operation_id.as_deref() != Some(WITHOUT_KEY);
    if !asks_for_key {
        operation.security = Some(Vec::new());
    }
    let with_key = if asks_for_key { errors(&WITH_KEY) } else { Responses::new() };
    for (status, response) in errors(&EVERYWHERE).into_iter().chain(with_key) {
        responses.entry(status).or_insert(response);
    }
    for response in responses.values_mut() {
        if let RefOr::T(response) = response {
            response.headers.insert("X-Request-Id".to_owned(), request_id().into());
        }
    }
}

fn request_id() -> utoipa::openapi::Header {
    HeaderBuilder::new()
        .schema(Some(schema(json!({"type": "string"}))))
        .description(Some("Names the request in the server's log"))
        .build()
}

fn retry_after() -> utoipa::openapi::Header {
    HeaderBuilder::new()
        .schema(Some(schema(json!({"type": "integer", "minimum": 1}))))
        .description(Some("Seconds until the same may be asked for again"))
        .build()
}

fn error_response(status: u16, description: &str) -> Response {
    let body = Content::new(Some(Ref::from_schema_name(ErrorAnswer::name())));
    let response = ResponseBuilder::new().description(description).header("X-Request-Id", request_id());
    let response = match status {
        503 => response.header("Retry-After", retry_after()),
        _ => response,
    };
    response.content("application/json", body).build()
}

/// The routes of the document itself.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    static YAML: LazyLock<String> = LazyLock::new(super::openapi_yaml);
    static JSON: LazyLock<String> =
        LazyLock::new(|| super::document().to_pretty_json().expect("the document is JSON") + "\n");
    Router::new()
        .route("/openapi.yaml", get(|| async { ([(CONTENT_TYPE, "application/yaml")], YAML.as_str()) }))
        .route("/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], JSON.as_str()) }))
}
