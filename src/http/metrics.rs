//! `GET /metrics`: what requests count, and all that can be told of the node at the moment.
//!
//! What is counted stands in registries that live as long as the node: [`Requests`], and [`Metrics`](crate::metrics::Metrics) for all
//! below this interface. What can be asked for at any time is asked for when the metrics are read: each part of the node gives its
//! figures at once, whatever the number of chains.

mod process;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{App, access::Client, cache::insists_on, nodes, problem::Problem};
use crate::{
    access::Role,
    cluster,
    core::{mirror::Follows, rules::ChainName, transaction::Timestamp},
    limits,
    metrics::{Counted, PREFIX, REQUEST_SECONDS},
    mirror,
    node::{Figures, Node},
};

/// The content type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The route of a request for which there is none.
const NO_ROUTE: &str = "other";

/// What requests and connections count.
pub struct Requests {
    registry: Registry,
    answered: Family<Answered, Counter>,
    seconds: Family<Asked, Histogram, fn() -> Histogram>,
    under_way: Gauge,
    no_route: Arc<str>,
    /// Connections that are open, those of other nodes included.
    pub connections: Gauge,
    /// Connections that may be open.
    pub connections_limit: Gauge,
    /// Streams of events that are open.
    pub event_streams: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    route: Arc<str>,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    route: Arc<str>,
    method: &'static str,
}

impl Default for Requests {
    /// None yet.
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let answered = Family::default();
        registry.register(
            "http_requests",
            "Requests by the template of their route (other: there is none), method and status; the status 0 is of those whose client \
             was gone before the answer",
            answered.clone(),
        );
        let seconds = Family::new_with_constructor((|| Histogram::new(REQUEST_SECONDS)) as fn() -> Histogram);
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to the head of its answer, by the template of its route and method",
            Unit::Seconds,
            seconds.clone(),
        );
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let under_way = gauge("http_requests_in_flight", "Requests whose answer has not begun");
        let connections = gauge("http_connections", "Connections that are open, those of other nodes included");
        let connections_limit = gauge("http_connections_limit", "Connections that may be open; more wait");
        let event_streams = gauge("http_event_streams", "Streams of events that are open");
        let no_route = NO_ROUTE.into();
        Requests { no_route, registry, answered, seconds, under_way, connections, connections_limit, event_streams }
    }
}

impl Requests {
    /// A request has come for a route with this template, if there is one; `of_route` is what is counted of this method of it.
    pub fn begin<'a>(
        &'a self,
        route: Option<&Arc<str>>,
        of_route: Option<&'a OfRoute>,
        method: &Method,
    ) -> UnderWay<'a> {
        let asked = Asked { route: route.unwrap_or(&self.no_route).clone(), method: known_method(method) };
        let (since, counted) = (Instant::now(), Counted::new(&self.under_way));
        UnderWay { of: self, of_route, since, asked, answered: None, _counted: counted }
    }
}

/// The name of a method that this interface knows: a client may send any other.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::PUT => "PUT",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What is counted of one method of a route, so that it need not be looked up for each request.
#[derive(Default)]
pub struct OfRoute {
    seconds: OnceLock<Histogram>,
    /// Those with the status of the first answer that was a success.
    answered: OnceLock<(u16, Counter)>,
}

/// A request that is not answered yet. It is counted when this is dropped.
pub struct UnderWay<'a> {
    of: &'a Requests,
    /// Where it is of a route.
    of_route: Option<&'a OfRoute>,
    since: Instant,
    asked: Asked,
    /// The status, and the time until then.
    answered: Option<(u16, Duration)>,
    _counted: Counted,
}

impl UnderWay<'_> {
    /// The template of its route.
    pub fn route(&self) -> &str {
        &self.asked.route
    }

    /// The name of its method.
    pub fn method(&self) -> &'static str {
        self.asked.method
    }

    /// It is answered with this status. Gives the time that it took.
    pub fn answer(&mut self, status: StatusCode) -> Duration {
        let took = self.since.elapsed();
        self.answered = Some((status.as_u16(), took));
        took
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let (status, took) = self.answered.unwrap_or_else(|| (0, self.since.elapsed()));
        let seconds = || self.of.seconds.get_or_create_owned(&self.asked);
        let answered = || {
            let Asked { route, method } = self.asked.clone();
            self.of.answered.get_or_create_owned(&Answered { route, method, status })
        };
        let Some(of_route) = self.of_route else {
            seconds().observe(took.as_secs_f64());
            answered().inc();
            return;
        };
        of_route.seconds.get_or_init(seconds).observe(took.as_secs_f64());
        let kept = match of_route.answered.get() {
            None if (200..300).contains(&status) => Some(of_route.answered.get_or_init(|| (status, answered()))),
            kept => kept,
        };
        match kept {
            Some((usual, counter)) if *usual == status => counter.inc(),
            _ => answered().inc(),
        };
    }
}

/// The chains that have metrics of their own: patterns of names, `*` standing for any characters at the end.
#[derive(Clone, Debug, Default)]
pub struct ShownChains(pub Vec<String>);

impl ShownChains {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
    }
}

/// What this node counts and how it stands, for Prometheus: OpenMetrics text, or the older text format for those who would rather have
/// `text/plain`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "node",
    responses(
        (status = 200, description = "The metrics", content(
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            (String = "text/plain; version=0.0.4; charset=utf-8"),
        )),
    )
)]
pub async fn metrics(State(app): State<App>, client: Client, headers: HeaderMap) -> Result<Response, Problem> {
    // Chains are named to those only who may read them all.
    let names_chains = client.may_everywhere(Role::Read);
    let is_plain =
        ["text/plain", "text/html"].iter().any(|media| insists_on(&headers, media, "application/openmetrics-text"));
    // It asks the file system and the kernel, which may take their time.
    let text = tokio::task::spawn_blocking(move || written(&app, is_plain, names_chains)).await;
    let text = text.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be gathered"))?;
    let media = if is_plain { prometheus_text::CONTENT_TYPE } else { OPEN_METRICS };
    Ok(([(header::CONTENT_TYPE, media), (header::VARY, "accept, accept-encoding")], text).into_response())
}

fn written(app: &App, is_plain: bool, names_chains: bool) -> String {
    let shared = &*app.0;
    let mut figures = Registry::with_prefix(PREFIX);
    gather(app, names_chains, &mut figures);
    let mut text = String::new();
    for registry in [&shared.requests.registry, shared.node.metrics().registry(), &figures] {
        let written = match is_plain {
            true => prometheus_text::encode(&mut text, registry),
            false => text::encode_registry(&mut text, registry),
        };
        written.expect("writing to memory does not fail");
    }
    if !is_plain {
        text::encode_eof(&mut text).expect("writing to memory does not fail");
    }
    text
}

/// Gathers how the node stands.
fn gather(app: &App, names_chains: bool, registry: &mut Registry) {
    let shared = &*app.0;
    let of = &mut To(registry);
    of.0.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let labels = [("id", shared.node.id()), ("host", shared.peers.host().to_string())];
    of.0.register("node", "The node: its public key, and where others reach it", Info::new(labels));
    of.gauge(
        "ready",
        "Whether the node takes reads and writes of all its chains, as GET /readyz says",
        nodes::check_ready(app, |_| true).is_ok(),
    );
    node(of, &shared.node, &shared.node.figures());
    http(of, app);
    cluster(of, &shared.cluster.figures());
    mirrors(of, &shared.mirrors.figures());
    of.gauge("discovery_known_nodes", "Other nodes that this one knows", shared.peers.known().borrow().len());
    of.gauge("discovery_live_nodes", "Other nodes that have answered this one lately", shared.peers.live().len());
    process::gather(of, shared.started);
    if names_chains && !shared.shown_chains.0.is_empty() {
        chains(of, &shared.node, &shared.shown_chains);
    }
}

/// What metrics are added to, for one reading.
struct To<'a>(&'a mut Registry);

impl To<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl Value) {
        self.0.register(name, help, value.gauge());
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) {
        self.0.register_with_unit(name, help, Unit::Bytes, value.gauge());
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.0.register_with_unit(name, help, Unit::Seconds, gauge);
    }

    /// One of each value of a label.
    fn by<L: Into<String>, V: Value>(
        &mut self,
        label: &'static str,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (L, V)>,
    ) {
        let family = Family::<Vec<(&'static str, String)>, Gauge<u64, AtomicU64>>::default();
        for (of, value) in values {
            family.get_or_create(&vec![(label, of.into())]).set(value.number());
        }
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, family),
            None => self.0.register(name, help, family),
        }
    }
}

/// What a gauge may show.
trait Value: Sized {
    fn number(self) -> u64;

    fn gauge(self) -> Gauge<u64, AtomicU64> {
        let gauge = Gauge::default();
        gauge.set(self.number());
        gauge
    }
}

impl Value for u64 {
    fn number(self) -> u64 {
        self
    }
}

impl Value for usize {
    fn number(self) -> u64 {
        self as u64
    }
}

impl Value for bool {
    fn number(self) -> u64 {
        self.into()
    }
}

/// Seconds since 1970.
fn since_1970(time: Timestamp) -> f64 {
    time.micros() as f64 / 1e6
}

fn node(of: &mut To, node: &Node, figures: &Figures) {
    of.gauge("chains", "Chains that this node keeps", figures.chains);
    of.gauge("chains_limit", "Chains that this node can keep", limits::CHAINS);
    of.gauge(
        "chains_damaged",
        "Chains that take no writes since what is stored of them does not hold",
        node.damages().len(),
    );
    let help = "Chains that take no writes since newer quants of them were signed than are here";
    of.gauge("chains_rolled_back", help, node.rollbacks().len());
    let totals = figures.totals;
    of.gauge(
        "stored_transactions",
        "Transactions of all chains; what forks share counts in each of them",
        totals.transactions,
    );
    of.gauge("stored_quants", "Quants of all chains; what forks share counts in each of them", totals.quants);
    of.bytes(
        "stored",
        "Bytes of the transactions of all chains; what forks share counts in each of them",
        totals.bytes,
    );
    of.gauge("pool_transactions", "Transactions of all chains that no quant covers yet", totals.pooled);
    of.gauge("pool_limit_transactions", "Transactions that the pool of one chain may hold", figures.pool_limit);
    of.gauge("writer_queue_requests", "Requests that wait for the writers", figures.queued);
    of.gauge(
        "writer_queue_limit_requests",
        "Requests that may wait for the writers; more are refused",
        figures.queue_limit,
    );
    let help = "Batches that the log has behind those of which the index has all: few, unless the index is behind";
    of.gauge("index_lag_batches", help, figures.index_lag);
    let help = "Whether the index lacks something of the log since it could not be written";
    of.gauge("index_behind", help, figures.is_index_behind);
    if let Some(disk) = figures.disk {
        of.bytes("disk_size", "Bytes of the file system of the data folder", disk.size);
        of.bytes("disk_used", "Bytes of it that are taken, by whomever", disk.used);
        of.bytes("disk_free", "Bytes of it that this node may take", disk.free);
        of.bytes("disk_reserve", "Bytes that must be free of it: below, all writes are refused", disk.reserve);
    }
    of.gauge("imports_running", "Imports under way, those of mirrors included", figures.imports);
    of.gauge("witnessed_logs", "Logs of others that this node has cosigned as their witness", figures.witnessed);
    let help = "Pieces of evidence against logs that this node has cosigned: whether they prove that a log has signed two histories";
    let evidence = ["true", "false"].into_iter().zip(figures.evidence);
    of.by("proven", "witnessed_evidence", help, None, evidence);
    of.seconds("clock_timestamp", "What the node's clock shows, since 1970", since_1970(figures.clock));
    of.gauge(
        "clock_plausible",
        "Whether the clock can be right: it shows neither a past nor a future that cannot be",
        figures.is_clock_plausible,
    );
}

fn http(of: &mut To, app: &App) {
    let free = app.0.room.available_permits();
    of.bytes("http_bodies", "Bytes that request bodies take up", limits::BODIES_BYTES.saturating_sub(free) as u64);
    of.bytes("http_bodies_limit", "Bytes that request bodies may take up", limits::BODIES_BYTES as u64);
}

fn cluster(of: &mut To, figures: &cluster::Figures) {
    of.by(
        "state",
        "cluster_nodes",
        "Nodes of the cluster, as this one sees them: live, suspect, down, leaving",
        None,
        figures.nodes.clone(),
    );
    of.gauge("cluster_groups", "Groups that this node keeps", figures.groups);
    of.gauge("cluster_groups_led", "Groups that this node leads", figures.led);
    of.gauge(
        "cluster_groups_leaderless",
        "Groups that this node keeps, of which it knows no leader",
        figures.leaderless,
    );
    of.gauge(
        "cluster_groups_ended",
        "Groups that this node keeps, whose engine has ended after a fault",
        figures.ended,
    );
    of.gauge("cluster_groups_moving", "Groups that this node moves to other nodes", figures.moving);
    let help = "Entries that this node has and has not applied, of the group with the most";
    of.gauge("cluster_apply_lag_entries", help, figures.apply_lag);
    let ways = || figures.others.iter();
    let help = "Whether there is a connection to another node of the cluster";
    of.by("node", "cluster_link_up", help, None, ways().map(|(node, way)| (node, way.is_up)));
    let help = "Entries that another node lacks of groups which this one leads, of the group with the most";
    of.by("node", "cluster_replica_lag_entries", help, None, ways().map(|(node, way)| (node, way.lag)));
}

fn mirrors(of: &mut To, figures: &mirror::Figures) {
    let states = [
        ("copying", Follows::Copying),
        ("following", Follows::Following),
        ("away", Follows::Away),
        ("stopped", Follows::Stopped),
        ("contradiction", Follows::Contradiction),
    ];
    let states = states.map(|(name, state)| (name, figures.states.get(&state).copied().unwrap_or(0)));
    of.by(
        "state",
        "mirrors",
        "Chains of others that this node follows or has followed, by how they stand",
        None,
        states,
    );
    let help = "Transactions that are missing of what their sources have signed, of the mirror with the most";
    of.gauge("mirror_lag_transactions", help, figures.lag);
    of.gauge("mirror_evidence", "Pieces of evidence against the sources of mirrors", figures.evidence);
}

/// What is told of one chain.
#[derive(Clone, Copy, Default)]
struct OfChain {
    transactions: u64,
    quants: u64,
    pooled: u64,
    bytes: u64,
    newest: u64,
}

/// The chains that the operator has asked for by name, a bounded number.
fn chains(of: &mut To, node: &Node, shown: &ShownChains) {
    let (mut chains, mut left_out, mut after) = (BTreeMap::<String, OfChain>::new(), 0_usize, None::<ChainName>);
    loop {
        // A page at a time, so that nobody who makes a chain waits for all of them.
        let page = node.chains(after.as_ref().map(ChainName::as_str), limits::METRICS_CHAINS);
        for (name, chain) in page.iter().filter(|(name, _)| shown.has(name.as_str())) {
            if chains.len() == limits::METRICS_CHAINS {
                left_out += 1;
                continue;
            }
            let told = chain.as_ref().map(|chain| {
                let head = chain.head();
                OfChain {
                    transactions: head.size().get(),
                    quants: head.newest.index().next().get(),
                    pooled: head.pooled(),
                    bytes: head.bytes,
                    newest: head.newest.header().timestamp.seconds(),
                }
            });
            chains.insert(name.to_string(), told.unwrap_or_default());
        }
        match page.last() {
            Some((last, _)) if page.len() == limits::METRICS_CHAINS => after = Some(last.clone()),
            _ => break,
        }
    }
    let mut tell = |name, help, unit, value: fn(&OfChain) -> u64| {
        of.by("chain", name, help, unit, chains.iter().map(|(name, chain)| (name, value(chain))));
    };
    tell("chain_transactions", "Transactions of a chain", None, |chain| chain.transactions);
    tell("chain_quants", "Quants of a chain", None, |chain| chain.quants);
    tell("chain_pool_transactions", "Transactions of a chain that no quant covers yet", None, |chain| chain.pooled);
    tell("chain_size", "Bytes of the transactions of a chain", Some(Unit::Bytes), |chain| chain.bytes);
    let help = "The time of the newest quant of a chain, since 1970";
    tell("chain_newest_quant_timestamp", help, Some(Unit::Seconds), |chain| chain.newest);
    of.gauge("metrics_chains_limit", "Chains that can have metrics of their own", limits::METRICS_CHAINS);
    of.gauge(
        "metrics_chains_left_out",
        "Chains that --metrics-chains asks for, and that are beyond the limit",
        left_out,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_shown_by_patterns() {
        let shown = |patterns: &[&str]| ShownChains(patterns.iter().map(|pattern| (*pattern).to_owned()).collect());
        for (patterns, name, expected) in [
            (&[][..], "qbc", false),
            (&["*"], "qbc", true),
            (&["orders-*", "qbc"], "orders-2026", true),
            (&["orders-*", "qbc"], "qbc", true),
            (&["orders-*", "qbc"], "orders", false),
            (&["orders"], "orders-2026", false),
        ] {
            assert_eq!(shown(patterns).has(name), expected, "{patterns:?} {name}");
        }
    }

    /// Whatever clients send, the number of series is bounded.
    #[test]
    fn no_label_is_what_a_client_sends() {
        let requests = Requests::default();
        for number in 0..100 {
            let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            requests.begin(None, None, &method).answer(StatusCode::NOT_FOUND);
        }
        let mut text = String::new();
        text::encode_registry(&mut text, &requests.registry).unwrap();
        let expected = r#"qbc_http_requests_total{route="other",method="other",status="404"} 100"#;
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert_eq!(text.matches("qbc_http_requests_total").count(), 1, "{text}");
    }

    /// A route keeps what it counts most; the sums are those of all.
    #[test]
    fn what_a_route_keeps_is_counted_with_all_else() {
        let (requests, of_route, route) = (Requests::default(), OfRoute::default(), Arc::from("/inject"));
        for (status, of_route) in [(409, Some(&of_route)), (202, Some(&of_route)), (202, None), (202, Some(&of_route))]
        {
            requests.begin(Some(&route), of_route, &Method::POST).answer(StatusCode::from_u16(status).unwrap());
        }
        let mut text = String::new();
        text::encode_registry(&mut text, &requests.registry).unwrap();
        for expected in [
            r#"qbc_http_requests_total{route="/inject",method="POST",status="202"} 3"#,
            r#"qbc_http_requests_total{route="/inject",method="POST",status="409"} 1"#,
            r#"qbc_http_request_duration_seconds_count{route="/inject",method="POST"} 4"#,
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
        }
    }
}
