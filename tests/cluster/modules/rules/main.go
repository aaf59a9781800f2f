// Reads files of Prometheus rules as Prometheus does, and prints each selector that they use as JSON:
// the alert, the metric, and the labels that it is asked by.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

type selector struct {
	Alert  string   `json:"alert"`
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

func main() {
	found := []selector{}
	for _, file := range os.Args[1:] {
		groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation)
		for _, err := range errs {
			fmt.Fprintln(os.Stderr, err)
		}
		if len(errs) > 0 {
			os.Exit(1)
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				expression, err := parser.ParseExpr(rule.Expr)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
					if vector, ok := node.(*parser.VectorSelector); ok {
						labels := []string{}
						for _, matcher := range vector.LabelMatchers {
							if matcher.Name != "__name__" {
								labels = append(labels, matcher.Name)
							}
						}
						found = append(found, selector{rule.Alert, vector.Name, labels})
					}
					return nil
				})
			}
		}
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
