//! The table of routes: with each route stands what it does, and on what. Whoever wants to know that looks here: who may call it, whether
//! a page of another site may, which node of a cluster answers, and what the OpenAPI document says.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use axum::{
    body::Body,
    http::{Method, Request},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::{
    App,
    metrics::OfRoute,
    openapi::{self, NESTED},
};
use crate::{access::Role, core::rules::ChainName};

/// What a route does, and so what it asks of those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It shows what everybody may see.
    Open,
    /// Other nodes and logs call it, of which this one need not know anything: what they say is looked up, or proves itself. It may
    /// change something.
    Between,
    /// It shows what is there.
    Read,
    /// It shows what is there and what comes, without end.
    Listen,
    /// It adds to a chain.
    Write,
    /// It makes, changes or removes what is no transaction, or erases.
    Operate,
}

impl Kind {
    /// Whether a request may change something.
    pub fn changes(self) -> bool {
        matches!(self, Kind::Between | Kind::Write | Kind::Operate)
    }

    /// The role that a client needs, if any.
    pub fn role(self) -> Option<Role> {
        match self {
            Kind::Open | Kind::Between => None,
            Kind::Read | Kind::Listen => Some(Role::Read),
            Kind::Write => Some(Role::Write),
            Kind::Operate => Some(Role::Operate),
        }
    }
}

/// On what a route does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On the chain that the path names, or on the default chain where it names none.
    Chain,
    /// On chains that its handler finds, and asks for each whether the client may.
    Found,
    /// On the node as a whole.
    Node,
}

/// What stands at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub kind: Kind,
    /// On what.
    pub scope: Scope,
}

/// The rules of all routes, by path and method.
pub type Rules = HashMap<(String, Method), Rule>;

/// Routes, each with its rule.
#[derive(Default)]
pub struct Table {
    routes: OpenApiRouter<App>,
    rules: Rules,
}

impl Table {
    /// Without a route.
    pub fn new() -> Table {
        Table::default()
    }

    /// Adds routes that are about the chain of their path.
    pub fn on_chain(self, kind: Kind, routes: UtoipaMethodRouter<App>) -> Table {
        self.add(Rule { kind, scope: Scope::Chain }, routes)
    }

    /// Adds routes that are about chains which their handlers find.
    pub fn on_found(self, kind: Kind, routes: UtoipaMethodRouter<App>) -> Table {
        self.add(Rule { kind, scope: Scope::Found }, routes)
    }

    /// Adds routes that are about the node.
    pub fn on_node(self, kind: Kind, routes: UtoipaMethodRouter<App>) -> Table {
        self.add(Rule { kind, scope: Scope::Node }, routes)
    }

    fn add(mut self, rule: Rule, routes: UtoipaMethodRouter<App>) -> Table {
        let mut paths = routes.1.paths.clone();
        for (path, item) in &mut paths {
            let methods = openapi::operations(item).map(|(method, _)| method);
            self.rules.extend(methods.map(|method| ((path.clone(), method), rule)));
        }
        self.routes = self.routes.routes(routes);
        self
    }

    /// Adds the routes of another table, below a path if one is given.
    pub fn and(mut self, below: &str, other: Table) -> Table {
        self.rules
            .extend(other.rules.into_iter().map(|((path, method), rule)| ((format!("{below}{path}"), method), rule)));
        self.routes = match below {
            "" => self.routes.merge(other.routes),
            _ => self.routes.nest(below, other.routes),
        };
        self
    }

    /// The router, what the macros have gathered of its routes for the OpenAPI document, and their rules.
    pub fn into_parts(self) -> (axum::Router<App>, OpenApi, Rules) {
        let (router, document) = self.routes.split_for_parts();
        (router, document, self.rules)
    }
}

/// A route, as the router knows it.
pub struct Listed {
    /// Its path.
    pub path: String,
    /// Its path as the document has it, which names the route in the log and in metrics.
    pub template: Arc<str>,
    /// Its methods.
    pub methods: Vec<ListedMethod>,
}

/// A method of a route.
pub struct ListedMethod {
    pub method: Method,
    pub rule: Rule,
    /// The names of its query parameters.
    pub parameters: Vec<String>,
    /// What it counts.
    pub counted: OfRoute,
}

/// What a request asks for.
pub struct Asked<'a> {
    /// The path of the route, as the table has it; empty where there is none.
    pub path: &'a str,
    /// Its name in the log and in metrics, if there is such a route.
    pub template: Option<&'a Arc<str>>,
    /// The route with this method, if there is one. A HEAD is a GET.
    pub listed: Option<&'a ListedMethod>,
    /// What the path names as a chain.
    named: Option<Cow<'static, str>>,
}

impl<'a> Asked<'a> {
    /// Finds what a request asks for. Without `wants_chain` the chain that it names is not looked for.
    pub fn of(routes: &'a matchit::Router<Listed>, request: &Request<Body>, wants_chain: bool) -> Asked<'a> {
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let Ok(found) = routes.at(request.uri().path()) else {
            return Asked { path: "", template: None, listed: None, named: None };
        };
        let listed = found.value.methods.iter().find(|listed| listed.method == *method);
        let is_of_chain = wants_chain && listed.is_some_and(|listed| listed.rule.scope == Scope::Chain);
        let named = is_of_chain.then(|| match found.params.get("chain") {
            // What is no UTF-8 is no name of a chain either way.
            Some(name) => percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned().into(),
            None => Cow::Borrowed(ChainName::DEFAULT),
        });
        Asked { path: &found.value.path, template: Some(&found.value.template), listed, named }
    }

    /// What is counted of the route with exactly this method.
    pub fn counted(&self, method: &Method) -> Option<&'a OfRoute> {
        self.listed.filter(|listed| listed.method == *method).map(|listed| &listed.counted)
    }

    /// What stands at the route.
    pub fn rule(&self) -> Option<Rule> {
        self.listed.map(|listed| listed.rule)
    }

    /// What it does.
    pub fn kind(&self) -> Option<Kind> {
        self.rule().map(|rule| rule.kind)
    }

    /// The chain that it is about: a name, or an id.
    pub fn chain(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// The first part of its path within a chain.
    pub fn part(&self) -> &'a str {
        let path = self.path.strip_prefix(NESTED).unwrap_or(self.path);
        path.trim_start_matches('/').split('/').next().unwrap_or_default()
    }
}
