//! Which rights does who need?
//!
//! The same lists that the chart grants. Nobody needs a right on a whole cluster.

use std::fmt;

/// Verbs on resources of one API group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The group; empty for the core.
    pub group: &'static str,
    /// Resources, with subresources as in `pods/log`.
    pub resources: Vec<&'static str>,
    /// What may be done with them.
    pub verbs: Vec<&'static str>,
}

/// As a line of a Role.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { "\"\"" } else { self.group };
        let (resources, verbs) = (self.resources.join(", "), self.verbs.join(", "));
        write!(f, "{{apiGroups: [{group}], resources: [{resources}], verbs: [{verbs}]}}")
    }
}

/// What somebody is to Vonk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A driver that is a pod of a Job. Executors have no rights at all.
    Driver,
    /// Whoever submits to cluster mode, and all other commands.
    Submitter,
    /// A notebook or laptop that is the driver itself.
    Client,
}

impl Part {
    /// The Role's name in the chart.
    #[must_use]
    pub fn role(self) -> &'static str {
        match self {
            Self::Driver => "vonk-driver",
            Self::Submitter => "vonk-submitter",
            Self::Client => "vonk-client",
        }
    }

    /// Everything it needs, and nothing that it does not use.
    #[must_use]
    pub fn rules(self) -> Vec<Rule> {
        let pods = vec!["create", "get", "list", "watch", "delete", "deletecollection"];
        let mut driver = vec![
            Rule { group: "", resources: vec!["pods"], verbs: pods },
            Rule { group: "", resources: vec!["pods/log", "events"], verbs: vec!["get", "list"] },
        ];
        match self {
            Self::Driver => driver,
            Self::Submitter => vec![
                Rule {
                    group: "batch",
                    resources: vec!["jobs"],
                    verbs: vec!["create", "get", "list", "watch", "patch", "delete"],
                },
                Rule { group: "", resources: vec!["secrets", "configmaps"], verbs: vec!["create"] },
                Rule { group: "", resources: vec!["pods", "pods/log"], verbs: vec!["get", "list", "watch"] },
                Rule { group: "", resources: vec!["events", "resourcequotas", "limitranges"], verbs: vec!["list"] },
                Rule { group: "coordination.k8s.io", resources: vec!["leases"], verbs: vec!["list", "delete"] },
            ],
            Self::Client => {
                driver.extend([
                    Rule { group: "", resources: vec!["secrets"], verbs: vec!["create"] },
                    Rule { group: "", resources: vec!["pods/portforward"], verbs: vec!["get", "create"] },
                    Rule {
                        group: "coordination.k8s.io",
                        resources: vec!["leases"],
                        verbs: vec!["create", "get", "list", "patch", "delete"],
                    },
                ]);
                driver
            }
        }
    }
}

impl Rule {
    /// Every resource with every verb, one by one.
    pub fn each(&self) -> impl Iterator<Item = Rule> + '_ {
        self.resources.iter().flat_map(move |resource| {
            let one =
                move |verb: &&'static str| Rule { group: self.group, resources: vec![resource], verbs: vec![verb] };
            self.verbs.iter().map(one)
        })
    }
}

/// Single rules joined again: those on the same resource become one.
#[must_use]
pub fn joined(single: Vec<Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in single {
        match rules.iter_mut().find(|known| known.group == rule.group && known.resources == rule.resources) {
            Some(known) => known.verbs.extend(rule.verbs),
            None => rules.push(rule),
        }
    }
    rules
}

/// A Role with these rules, to be applied.
#[must_use]
pub fn yaml(part: Part, namespace: &str, rules: &[Rule]) -> String {
    let mut text = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {}, namespace: {namespace}}}\nrules:\n",
        part.role()
    );
    for rule in rules {
        text.push_str(&format!("- {rule}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_printed_as_it_is_applied() {
        let client = Part::Client.rules();
        let missing = client.iter().flat_map(Rule::each).filter(|rule| rule.verbs == ["delete"]).collect();
        insta::assert_snapshot!(yaml(Part::Client, "team-a", &joined(missing)), @r#"
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata: {name: vonk-client, namespace: team-a}
        rules:
        - {apiGroups: [""], resources: [pods], verbs: [delete]}
        - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [delete]}
        "#);
    }

    #[test]
    fn nobody_reads_a_secret_and_joining_loses_nothing() {
        for part in [Part::Driver, Part::Submitter, Part::Client] {
            let single: Vec<Rule> = part.rules().iter().flat_map(Rule::each).collect();
            let secrets = single.iter().filter(|rule| rule.resources == ["secrets"]);
            assert!(secrets.clone().all(|rule| rule.verbs == ["create"]), "{}", part.role());
            let again: usize = joined(single.clone()).iter().map(|rule| rule.each().count()).sum();
            assert_eq!(again, single.len());
        }
    }

    #[test]
    fn the_chart_grants_exactly_these() {
        let chart = include_str!("../../../charts/vonk/templates/roles.yaml");
        for part in [Part::Driver, Part::Submitter, Part::Client] {
            let name = format!("\n  name: {}\n", part.role());
            let role = chart.split("\n---\n").find(|role| role.contains(&name)).unwrap();
            let granted: Vec<&str> = role.lines().filter_map(|line| line.strip_prefix("- ")).collect();
            let needed: Vec<String> = part.rules().iter().map(Rule::to_string).collect();
            assert_eq!(granted, needed, "{}", part.role());
        }
    }
}
