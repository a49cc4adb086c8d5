package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// GetPluginInfo names the driver.
func (n *node) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Driver, VendorVersion: n.cfg.Version}, nil
}

// GetPluginCapabilities says that there is no controller service.
func (n *node) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe answers as long as the plugin runs.
func (n *node) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// NodeGetInfo names the node.
func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.cfg.Node}, nil
}

// NodeGetCapabilities says that there is nothing but publish and unpublish: no staging, and no statistics, for which one would have to
// look at a mount that perhaps nobody serves.
func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// GetInfo tells the kubelet where the driver is.
func (n *node) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: Driver, Endpoint: n.cfg.csiSocket(), SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus ends the plugin if the kubelet does not take it: only a new socket makes the kubelet try again.
func (n *node) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	n.registered.Store(s.GetPluginRegistered())
	if s.GetPluginRegistered() {
		n.cfg.Logger.Info("the kubelet has registered the driver")
	} else {
		n.fail(fmt.Errorf("the kubelet does not register the driver: %s", s.GetError()))
	}
	return &registration.RegistrationStatusResponse{}, nil
}
