package telemetry_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/remora-storage/remora/telemetry"
)

// grpcReceiver serves OTLP with the real gRPC library. The generated service is in a package that needs grpc-gateway,
// so its one method is answered here.
func grpcReceiver(t *testing.T, answer func() error) (*receiver, string) {
	rc := &receiver{}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		var data trace.TracesData
		if err := stream.RecvMsg(&data); err != nil {
			return err
		}
		if err := answer(); err != nil {
			return err
		}
		payload, err := proto.Marshal(&data)
		if err != nil {
			return err
		}
		rc.mu.Lock()
		defer rc.mu.Unlock()
		rc.paths = append(rc.paths, method)
		rc.add(payload)
		return stream.SendMsg(&emptypb.Empty{})
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
	return rc, listener.Addr().String()
}

func TestGRPC(t *testing.T) {
	for _, c := range []struct{ scheme, protocol string }{{"grpc", ""}, {"http", telemetry.ProtocolGRPC}} {
		refuse := make(chan error, 1)
		refuse <- status.Error(codes.Unavailable, "not yet")
		called := make(chan struct{}, 2)
		rc, addr := grpcReceiver(t, func() error {
			called <- struct{}{}
			select {
			case err := <-refuse:
				return err
			default:
				return nil
			}
		})
		now := clock()
		r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: c.scheme + "://" + addr, Protocol: c.protocol,
			Now: now, BatchSize: 3, FlushEvery: time.Hour, RetryAfter: time.Millisecond})
		require.NoError(t, err)
		writeAndSync(r, now)
		for range 2 { // retried while open; a closing recorder would give up
			<-called
		}
		closeNow(t, r)
		require.Equal(t, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", rc.paths[0])
		requireTree(t, rc)
		require.EqualValues(t, 6, requireBooks(t, r)["remora_trace_spans_exported_total"])
	}
}

func TestGRPCRefuses(t *testing.T) {
	_, addr := grpcReceiver(t, func() error { return status.Error(codes.PermissionDenied, "no") })
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: "grpc://" + addr})
	require.NoError(t, err)
	r.Volume("v", telemetry.Sampling{}).Begin(telemetry.OpRead, 1, 1).End(0)
	closeNow(t, r)
	require.EqualValues(t, 1, requireBooks(t, r)["rejected"])
}
