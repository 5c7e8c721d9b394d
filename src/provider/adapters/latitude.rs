//! Latitude.sh: its keys, defaults and facts. Its API calls are not part of this build yet; `connect` says so.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::provider::{Entry, KvmSupport, Money, Price, Region, Sku, without_api};

/// Keys of provider `latitude`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the API calls, which are not part of this build yet")]
struct Config {
    /// Project id or slug.
    project: String,
    /// Site, `ASH`.
    site: Option<String>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "latitude",
    about: "Latitude.sh bare metal",
    credentials: &["LATITUDESH_AUTH_TOKEN", "LATITUDESH_BEARER"],
    default_sku: Sku::fixed("c3-small-x86"),
    default_region: Region::fixed("ASH"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 65535,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "site",
    init_keys: || "  project: my-project\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    price,
    connect: |_, config, _| without_api::<Config>("latitude", config),
};

fn kvm(_sku: &Sku) -> KvmSupport {
    // Every server plan is real hardware.
    KvmSupport::Yes
}

fn price(sku: &Sku, region: &Region) -> Option<Price> {
    let micros = match (sku.as_str(), region.as_str()) {
        ("c2-small-x86", "ASH" | "DAL" | "CHI" | "LAX" | "NYC" | "MIA") => 210_000,
        _ => return None,
    };
    Some(Price {
        per_hour: Money { micros, currency: "USD".to_owned() },
        source: "recorded from the API, 2024-08".to_owned(),
    })
}
