//! Google Compute Engine: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Money, Price, Region, Sku, without_api};

/// Keys of provider `gcp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Project that pays.
    project: String,
    /// Zone, `us-central1-a`.
    zone: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "gcp",
    about: "Google Compute Engine; KVM by nested virtualisation",
    credentials: &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN"],
    default_sku: Sku::fixed("n2-standard-4"),
    default_region: Region::fixed("us-central1-a"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(10),
    user_data_limit: 262_144,
    cloud_clock: true,
    timer_stops_bill: false,
    region_key: "zone",
    init_keys: || "  project: my-project\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    price,
    connect: |_, config| without_api::<Config>("gcp", config),
};

fn kvm(sku: &Sku) -> KvmSupport {
    // Nested virtualisation wants an Intel host (Compute Engine documentation, 'Nested virtualization overview').
    match sku.as_str().split('-').next() {
        Some("n1" | "n2" | "c2") => KvmSupport::Yes,
        Some(
            "e2" | "n2d" | "c2d" | "c3d" | "t2d" | "c4d" | "n4d" | "t2a" | "c4a" | "m1" | "m2" | "m3" | "h3",
        ) => KvmSupport::No,
        _ => KvmSupport::Unknown,
    }
}

fn price(sku: &Sku, region: &Region) -> Option<Price> {
    let micros = match (sku.as_str(), region.as_str()) {
        ("n2-standard-4", "us-central1-a" | "us-central1-b" | "us-central1-c" | "us-central1-f") => 194_236,
        ("n2-standard-8", "us-central1-a" | "us-central1-b" | "us-central1-c" | "us-central1-f") => 388_500,
        _ => return None,
    };
    Some(Price {
        per_hour: Money { micros, currency: "USD".to_owned() },
        source: "list price, 2026-09".to_owned(),
    })
}
