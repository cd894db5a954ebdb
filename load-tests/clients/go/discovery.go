package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// discover asks for all a server can do: aggregated discovery and the older one,
// the version, a mapping of kinds to resources, and both OpenAPI documents.
func discover(ctx context.Context, s *session) error {
	client, err := discovery.NewDiscoveryClientForConfig(s.config)
	if err != nil {
		return err
	}
	version, err := client.ServerVersionWithContext(ctx)
	if err != nil {
		return err
	}
	if err := s.say(map[string]any{"version": version.GitVersion}); err != nil {
		return err
	}
	for _, legacy := range []bool{false, true} {
		client.UseLegacyDiscovery = legacy
		resources, err := everyResource(client)
		if err != nil {
			return err
		}
		if err := s.say(map[string]any{"legacy": legacy, "resources": resources}); err != nil {
			return err
		}
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	for _, kind := range []schema.GroupKind{{Kind: "Pod"}, {Group: "apps", Kind: "Deployment"}, {Group: "missing", Kind: "Missing"}} {
		mapping, err := mapper.RESTMapping(kind)
		said := map[string]any{"kind": kind.String(), "error": fmt.Sprint(err)}
		if err == nil {
			said["resource"], said["scope"] = mapping.Resource.String(), mapping.Scope.Name()
		}
		if err := s.say(said); err != nil {
			return err
		}
	}
	return s.sayOpenAPI(client)
}

// strange says whether a group is a test's own.
func strange(group string) bool { return strings.Contains(group, "example.invalid") }

// everyResource is one line per resource that is not a test's own.
func everyResource(client discovery.DiscoveryInterface) ([]string, error) {
	_, lists, err := client.ServerGroupsAndResources()
	var failed *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &failed) {
		// The groups of other tests come and go.
		maps.DeleteFunc(failed.Groups, func(group schema.GroupVersion, _ error) bool { return strange(group.Group) })
		if len(failed.Groups) == 0 {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	var resources []string
	for _, list := range lists {
		if strange(list.GroupVersion) {
			continue
		}
		for _, resource := range list.APIResources {
			resources = append(resources, fmt.Sprintf("%s %s %s %t %s %v",
				list.GroupVersion, resource.Name, resource.Kind, resource.Namespaced, resource.Verbs, resource.ShortNames))
		}
	}
	slices.Sort(resources)
	return resources, nil
}

// sayOpenAPI is the largest that is ever read from a server in one piece.
func (s *session) sayOpenAPI(client discovery.DiscoveryInterface) error {
	document, err := client.OpenAPISchema()
	if err != nil {
		return err
	}
	// Definitions of other tests may come and go in it.
	if err := s.say(map[string]any{"openapi": document.GetInfo().GetTitle(), "large": len(document.GetPaths().GetPath()) > 300}); err != nil {
		return err
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	apps, known := paths["apis/apps/v1"]
	if !known {
		return fmt.Errorf("apis/apps/v1 is none of %d OpenAPI v3 documents", len(paths))
	}
	schema, err := apps.Schema("application/json")
	if err != nil {
		return err
	}
	digest := sha256.Sum256(schema)
	return s.say(map[string]any{"bytes": len(schema), "sha256": hex.EncodeToString(digest[:]), "from": apps.ServerRelativeURL()})
}
