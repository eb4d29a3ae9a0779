// Command gitops takes a cluster's credentials out of a Secret as ArgoCD or Flux does, and does
// with them what both live by: it asks who it is, lists, applies an object and watches it come.
//
//	gitops argocd|flux KUBECONFIG NAMESPACE/SECRET
//
// KUBECONFIG leads to the cluster that holds the Secret. What it found is printed as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"time"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	patience  = 30 * time.Second
	namespace = "default"
)

func main() {
	if len(os.Args) != 4 || readers[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gitops argocd|flux KUBECONFIG NAMESPACE/SECRET")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "gitops:", err)
		os.Exit(1)
	}
}

func run(tool, kubeconfig, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	secret, err := fetch(ctx, kubeconfig, name)
	if err != nil {
		return err
	}
	config, err := readers[tool](secret)
	if err != nil {
		return fmt.Errorf("Secret %s: %w", name, err)
	}
	config.UserAgent = tool
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("Secret %s: %w", name, err)
	}
	found, err := reconcile(ctx, client, tool)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func fetch(ctx context.Context, kubeconfig, name string) (*core.Secret, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	space, secret, _ := strings.Cut(name, "/")
	return client.CoreV1().Secrets(space).Get(ctx, secret, meta.GetOptions{})
}

var readers = map[string]func(*core.Secret) (*rest.Config, error){"argocd": argocd, "flux": flux}

// argocd reads the fields of an ArgoCD cluster Secret. A field that ArgoCD does not know is an
// error here, since ArgoCD would pass over it in silence.
func argocd(secret *core.Secret) (*rest.Config, error) {
	if kind := secret.Labels["argocd.argoproj.io/secret-type"]; kind != "cluster" {
		return nil, fmt.Errorf("its label argocd.argoproj.io/secret-type is %q", kind)
	}
	var fields struct {
		BearerToken        string `json:"bearerToken"`
		Username           string `json:"username"`
		Password           string `json:"password"`
		ProxyURL           string `json:"proxyUrl"`
		DisableCompression bool   `json:"disableCompression"`
		TLS                struct {
			Insecure   bool   `json:"insecure"`
			ServerName string `json:"serverName"`
			CertData   []byte `json:"certData"`
			KeyData    []byte `json:"keyData"`
			CAData     []byte `json:"caData"`
		} `json:"tlsClientConfig"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(secret.Data["config"])))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&fields); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	config := &rest.Config{
		Host:               string(secret.Data["server"]),
		BearerToken:        fields.BearerToken,
		Username:           fields.Username,
		Password:           fields.Password,
		DisableCompression: fields.DisableCompression,
		TLSClientConfig: rest.TLSClientConfig{
			Insecure:   fields.TLS.Insecure,
			ServerName: fields.TLS.ServerName,
			CertData:   fields.TLS.CertData,
			KeyData:    fields.TLS.KeyData,
			CAData:     fields.TLS.CAData,
		},
	}
	if fields.ProxyURL != "" {
		proxy, err := url.Parse(fields.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("proxyUrl: %w", err)
		}
		config.Proxy = http.ProxyURL(proxy)
	}
	return config, nil
}

// flux reads the kubeconfig of a Secret that spec.kubeConfig names. What would run a program, read a
// file or turn off the check of the server is not taken, as Flux does not unless it is told to.
func flux(secret *core.Secret) (*rest.Config, error) {
	given, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["value"])
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	files := given.BearerTokenFile + given.CAFile + given.CertFile + given.KeyFile
	if given.ExecProvider != nil || given.Insecure || files != "" {
		return nil, errors.New("value: exec, files and insecure-skip-tls-verify are not taken")
	}
	return &rest.Config{
		Host:               given.Host,
		APIPath:            given.APIPath,
		BearerToken:        given.BearerToken,
		Username:           given.Username,
		Password:           given.Password,
		Proxy:              given.Proxy,
		DisableCompression: given.DisableCompression,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: given.ServerName,
			CAData:     given.CAData,
			CertData:   given.CertData,
			KeyData:    given.KeyData,
		},
	}, nil
}

type findings struct {
	Host    string   `json:"host"`
	User    string   `json:"user"`
	Groups  []string `json:"groups"`
	Pods    []string `json:"pods"`
	Watched string   `json:"watched"`
}

func reconcile(ctx context.Context, client *kubernetes.Clientset, tool string) (*findings, error) {
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(
		ctx, &authn.SelfSubjectReview{}, meta.CreateOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := &findings{
		Host:   client.RESTClient().Get().URL().Host,
		User:   review.Status.UserInfo.Username,
		Groups: review.Status.UserInfo.Groups,
	}
	for _, pod := range pods.Items {
		found.Pods = append(found.Pods, pod.Namespace+"/"+pod.Name)
	}
	sort.Strings(found.Pods)
	found.Watched, err = apply(ctx, client, "from-"+tool, tool)
	return found, err
}

// apply applies a ConfigMap and returns the value that a watch, begun before, tells of it.
func apply(ctx context.Context, client *kubernetes.Clientset, name, manager string) (string, error) {
	maps := client.CoreV1().ConfigMaps(namespace)
	list, err := maps.List(ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		return "", err
	}
	watch, err := maps.Watch(ctx, meta.ListOptions{
		FieldSelector: "metadata.name=" + name, ResourceVersion: list.ResourceVersion})
	if err != nil {
		return "", err
	}
	defer watch.Stop()
	wanted := applycore.ConfigMap(name, namespace).WithData(map[string]string{"applied-by": manager})
	if _, err := maps.Apply(ctx, wanted, meta.ApplyOptions{FieldManager: manager}); err != nil {
		return "", err
	}
	for event := range watch.ResultChan() {
		if seen, ok := event.Object.(*core.ConfigMap); ok {
			return seen.Data["applied-by"], nil
		}
		return "", fmt.Errorf("the watch told of %T", event.Object)
	}
	return "", errors.New("the watch ended before it told of anything")
}
