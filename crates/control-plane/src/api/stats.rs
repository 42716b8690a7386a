//! What the caller has running and has had: now, at the most, over time, and by days.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{QueryErrors, StoreErrors, schema};
use super::request::{Caller, json as json_answer};
use super::sandboxes::seconds;
use crate::store::{Running, step};

const RANGES: [(&str, u64); 5] = [("5m", 300), ("1h", 3600), ("6h", 21_600), ("24h", 86_400), ("30d", 30 * 86_400)];
const DEFAULT_RANGE: &str = "1h";

/// Days in one answer.
const MAX_DAYS: i32 = 92;
const DEFAULT_DAYS: i64 = 30;

/// A member of a request's query, by its name.
pub fn in_query(uri: &http::Uri, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The length of time that a name in `ranges` stands for.
pub fn range_of(
    asked: Option<String>,
    ranges: &'static [(&'static str, u64)],
    default: &'static str,
) -> Result<(&'static str, Duration), ApiError> {
    let asked = asked.unwrap_or_else(|| default.to_owned());
    let found = ranges.iter().find(|(name, _)| *name == asked);
    found.map(|(name, seconds)| (*name, Duration::from_secs(*seconds))).ok_or_else(|| {
        let names: Vec<_> = ranges.iter().map(|(name, _)| *name).collect();
        ApiError::invalid_request(format!("range must be one of {}", names.join(", ")))
    })
}

/// What the caller has running.
#[derive(Serialize, ToSchema)]
struct CapsuleStats {
    range: &'static str,
    current: Current,
    peaks: Peaks,
    series: Series,
}

/// Now.
#[derive(Serialize, ToSchema)]
struct Current {
    running_count: i64,
    vcpus_reserved: i64,
    memory_mb_reserved: i64,
}

/// The most at once in the last 30 days.
#[derive(Serialize, ToSchema)]
struct Peaks {
    running_count: i64,
    vcpus: i64,
    memory_mb: i64,
}

/// The most in each step of the range, the oldest first.
#[derive(Serialize, ToSchema)]
struct Series {
    labels: Vec<String>,
    running: Vec<i64>,
    vcpus: Vec<i64>,
    memory_mb: Vec<i64>,
}

struct RangeParam;

impl IntoParams for RangeParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![range_param(&RANGES, DEFAULT_RANGE)]
    }
}

/// The parameter `range` for the document.
pub fn range_param(ranges: &[(&str, u64)], default: &str) -> Parameter {
    let names: Vec<_> = ranges.iter().map(|(name, _)| *name).collect();
    let builder = ParameterBuilder::new().name("range").parameter_in(ParameterIn::Query);
    let schema = schema(json!({"type": "string", "enum": names, "default": default}));
    builder.description(Some("How far back")).schema(Some(schema)).build()
}

/// See what is running
///
/// Now, at the most in the last 30 days, and over a range of time.
#[utoipa::path(
    get,
    path = "/v1/capsules/stats",
    operation_id = "getStats",
    tag = "capsules",
    params(RangeParam),
    responses((status = 200, description = "The numbers", body = CapsuleStats), QueryErrors, StoreErrors)
)]
pub async fn stats(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: http::Uri) -> Result<Response, ApiError> {
    let (name, range) = range_of(in_query(&uri, "range"), &RANGES, DEFAULT_RANGE)?;
    let (now, step) = (Timestamp::now(), step(range));
    let since = now - range;
    let current = api.store.running_now(&owner).await?;
    let peaks = api.store.peaks(&owner, now).await?;
    let samples = api.store.samples(&owner, step, since).await?;
    let samples = samples.into_iter().map(|sample| (sample.at.as_second(), sample.running)).collect();
    Ok(json_answer(
        StatusCode::OK,
        &CapsuleStats {
            range: name,
            current: Current {
                running_count: current.count,
                vcpus_reserved: current.vcpus,
                memory_mb_reserved: current.memory_mb,
            },
            peaks: Peaks {
                running_count: peaks.count.max(current.count),
                vcpus: peaks.vcpus.max(current.vcpus),
                memory_mb: peaks.memory_mb.max(current.memory_mb),
            },
            series: series(&samples, step, since, now),
        },
    ))
}

/// Every step of the range; where nothing ran there is no sample.
fn series(
    samples: &std::collections::HashMap<i64, Running>,
    step: Duration,
    since: Timestamp,
    now: Timestamp,
) -> Series {
    let step = i64::try_from(step.as_secs()).unwrap_or(1);
    let first = since.as_second().div_euclid(step) + 1;
    let mut series = Series { labels: Vec::new(), running: Vec::new(), vcpus: Vec::new(), memory_mb: Vec::new() };
    for at in (first..=now.as_second().div_euclid(step)).map(|number| number * step) {
        let running = samples.get(&at).copied().unwrap_or_default();
        series.labels.push(Timestamp::from_second(at).map(seconds).unwrap_or_default());
        series.running.push(running.count);
        series.vcpus.push(running.vcpus);
        series.memory_mb.push(running.memory_mb);
    }
    series
}

/// What the caller has used.
#[derive(Serialize, ToSchema)]
struct UsageResponse {
    #[schema(format = Date)]
    from: String,
    #[schema(format = Date)]
    to: String,
    points: Vec<UsagePoint>,
}

/// One day (UTC) on which something ran.
#[derive(Serialize, ToSchema)]
struct UsagePoint {
    #[schema(format = Date)]
    date: String,
    /// Virtual processors times minutes.
    cpu_minutes: f64,
    /// MiB of memory times minutes.
    ram_mb_minutes: f64,
}

struct DaysParams;

impl IntoParams for DaysParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, description: &str| {
            let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            builder
                .description(Some(description))
                .schema(Some(schema(json!({"type": "string", "format": "date"}))))
                .build()
        };
        vec![
            parameter("from", "The first day, 30 days before the last by default"),
            parameter("to", "The last day, today by default; at most 92 days in all"),
        ]
    }
}

/// See what was used
///
/// By days (UTC): the virtual processors and the memory of what was running, times minutes. Looked at every 10 seconds.
#[utoipa::path(
    get,
    path = "/v1/capsules/usage",
    operation_id = "getUsage",
    tag = "capsules",
    params(DaysParams),
    responses((status = 200, description = "The days", body = UsageResponse), QueryErrors, StoreErrors)
)]
pub async fn usage(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: http::Uri) -> Result<Response, ApiError> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let to = day(in_query(&uri, "to"), "to")?.unwrap_or(today);
    let from = match day(in_query(&uri, "from"), "from")? {
        Some(from) => from,
        None => to.checked_sub(Span::new().days(DEFAULT_DAYS)).map_err(|error| invalid("to", &error))?,
    };
    let length = from.until(to).map_err(|error| invalid("from", &error))?.get_days();
    if !(0..=MAX_DAYS).contains(&length) {
        return Err(ApiError::invalid_request(format!("from must be at most {MAX_DAYS} days before to")));
    }
    let days = api.store.days(&owner, begin(from)?, begin(to)?).await?;
    let points = days.into_iter().map(|day| UsagePoint {
        date: day.begins.to_zoned(TimeZone::UTC).date().to_string(),
        cpu_minutes: day.cpu_minutes,
        ram_mb_minutes: day.memory_mb_minutes,
    });
    let usage = UsageResponse { from: from.to_string(), to: to.to_string(), points: points.collect() };
    Ok(json_answer(StatusCode::OK, &usage))
}

fn invalid(name: &str, error: &jiff::Error) -> ApiError {
    ApiError::invalid_request(format!("{name} is not a day (YYYY-MM-DD) that can be asked for: {error}"))
}

fn day(asked: Option<String>, name: &str) -> Result<Option<Date>, ApiError> {
    asked.map(|text| text.parse().map_err(|error| invalid(name, &error))).transpose()
}

fn begin(day: Date) -> Result<Timestamp, ApiError> {
    day.to_zoned(TimeZone::UTC).map(|begin| begin.timestamp()).map_err(|error| invalid("from", &error))
}
