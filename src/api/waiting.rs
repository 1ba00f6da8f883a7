//! Why deliveries wait, in the answers that show them. The dispatcher explains how it is known (`dispatcher`'s
//! `state/waiting`).

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::http::Api;
use crate::domain::{
    Delivery, DeliveryId, DeliveryStatus, DeliveryWait, Destination, LatestDelivery, Timestamp, WaitReason,
    WaitingDelivery, Watch,
};

/// Why a due delivery is not attempted now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Waiting)]
pub struct WaitingView {
    reason: WaitReason,
    /// Beginning of the outage for `destination_down`; otherwise the time at which the delivery became due.
    since: Timestamp,
    /// Time of the next attempt to the destination, of this delivery or another one; null if it is not known, or if one is
    /// in progress.
    #[schema(required)]
    until: Option<Timestamp>,
    /// For `destination_down`: error of the last attempt to the destination, of this delivery or another one of the app.
    /// For `token`: error of the last request for the token.
    #[schema(required)]
    last_error: Option<String>,
    /// For `rate_limited`: whether the `rate` of the saved destination is the cause, and not the receiver.
    own_rate: bool,
}

impl From<DeliveryWait> for WaitingView {
    fn from(wait: DeliveryWait) -> Self {
        let DeliveryWait { reason, since, until, last_error, is_own_rate } = wait;
        Self { reason, since, until, last_error, own_rate: is_own_rate }
    }
}

/// Why the deliveries of an answer wait.
#[derive(Default)]
pub struct Waits(BTreeMap<DeliveryId, WaitingView>);

impl Waits {
    /// Looks deliveries up.
    pub fn of_deliveries<'d>(api: &Api, deliveries: impl IntoIterator<Item = &'d Delivery>) -> Self {
        Self::of(api, deliveries.into_iter().filter_map(of_delivery).collect())
    }

    /// Looks up the newest delivery to each destination of watches.
    pub fn of_watches<'w>(api: &Api, watches: impl IntoIterator<Item = &'w Watch>) -> Self {
        let of_watch = |watch: &'w Watch| {
            watch
                .destinations
                .iter()
                .filter_map(|(destination, latest)| of_latest(watch, destination, latest.as_ref()?))
        };
        Self::of(api, watches.into_iter().flat_map(of_watch).collect())
    }

    fn of(api: &Api, pending: Vec<WaitingDelivery>) -> Self {
        if pending.is_empty() {
            return Self::default();
        }
        let waits = (api.delivery_waits)(&pending);
        let ids = pending.into_iter().map(|delivery| delivery.id);
        Self(ids.zip(waits).filter_map(|(id, wait)| Some((id, wait?.into()))).collect())
    }

    /// Returns why a delivery waits.
    pub fn get(&self, id: DeliveryId) -> Option<&WaitingView> {
        self.0.get(&id)
    }
}

/// Returns a delivery as the look-up needs it, if it is pending.
fn of_delivery(delivery: &Delivery) -> Option<WaitingDelivery> {
    let due_at = delivery.next_attempt_at.filter(|_| delivery.status == DeliveryStatus::Pending)?;
    Some(WaitingDelivery {
        id: delivery.id,
        watch: delivery.watch,
        destination: delivery.destination,
        channel: delivery.channel,
        queue: delivery.queue.clone(),
        target: delivery.target.clone(),
        attempt_count: delivery.attempt_count,
        due_at,
        is_behind: delivery.is_behind,
    })
}

fn of_latest(watch: &Watch, destination: &Destination, latest: &LatestDelivery) -> Option<WaitingDelivery> {
    let due_at = latest.next_attempt_at.filter(|_| latest.status == DeliveryStatus::Pending)?;
    Some(WaitingDelivery {
        id: latest.id,
        watch: Some(watch.id),
        destination: destination.id,
        channel: destination.channel,
        queue: destination.queue.clone(),
        target: destination.saved.as_ref().map(|saved| saved.target.clone()),
        attempt_count: latest.attempt_count,
        due_at,
        is_behind: latest.is_behind,
    })
}
