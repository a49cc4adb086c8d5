package spec

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1Mi": 1 << 20, "20Gi": 20 << 30, "2G": 2e9, "1.5Gi": 3 << 29, "5368709120": 5 << 30, "1e9": 1e9, "+1Gi": 1 << 30,
		"1Ei": 1 << 60, "2147483648000m": 2147483648,
	} {
		n, bad := ParseSize(text)
		require.Nil(t, bad, text)
		require.Equal(t, want, n, text)
	}
	for text, want := range map[string]string{
		"20GiB": `is not a size|write "20Gi"`, "20GB": `is not a size|write "20G"`, "20 gi": `is not a size|write "20Gi"`,
		"20gibibytes": `is not a size|write "20Gi"`, "20 mebibytes": `is not a size|write "20Mi"`,
		"20000000K": `is not a size|write "20000000k"`, "5 Megabytes": `is not a size|write "5M"`,
		"-1": `is negative|write for example "20Gi"`, "-2Gi": `is negative|write "2Gi"`, "0": `is zero|write for example "20Gi"`, "0Gi": `is zero|write for example "20Gi"`,
		"500m": `is a fraction of a byte|write for example "20Gi"`, "1048576.5": `is not a whole number of bytes|write for example "20Gi"`,
		"1": `is too small|write "1Mi" or more`, "2Ei": `is too large|write "1Ei" or less`, "9e99": `is too large|write "1Ei" or less`,
		"": `is empty|write for example "20Gi"`, "1e2000000000": `is not a size|write for example "20Gi"`, "1_000": `is not a size|write for example "20Gi"`,
		"0x10": `is not a size|write for example "20Gi"`, "NaN": `is not a size|write for example "20Gi"`, "1Gi\n": `is not a size|write "1Gi"`,
	} {
		n, bad := ParseSize(text)
		require.Zero(t, n, text)
		require.NotNil(t, bad, text)
		require.Equal(t, want, bad.What+"|"+bad.Fix, text)
		require.NotEmpty(t, bad.Allowed)
	}
}

func TestTraceRoundTrips(t *testing.T) {
	for _, s := range []string{"every", "slow", "off", "ratio:0.01", "ratio:1", "ratio:1e-06"} {
		trace, err := ParseTrace(s)
		require.NoError(t, err)
		require.Equal(t, s, trace.String())
	}
	for _, s := range []string{"", "Every", "ratio", "ratio:", "ratio:0", "ratio:1.1", "ratio:-1", "ratio:NaN", "ratio:Inf", "ratio:0x1p-4", "ratio:1_0", "ratio:0.1 "} {
		_, err := ParseTrace(s)
		require.Error(t, err, s)
	}
}

func TestVolumeFlagRoundTrips(t *testing.T) {
	v := Volume{Name: "data", Size: 2 << 30, Class: "default", Replicas: 1, Sealing: v1alpha1.SealingOn, Engine: v1alpha1.EngineReplicated, Mode: ModeFilesystem, Access: ReadWriteOnce, Trace: Trace{Kind: TraceEvery}}
	require.Equal(t, "name=data,size=2147483648,class=default,replicas=1,sealing=on,trace=every", v.Flag())
	again, err := ParseVolumeFlag(v.Flag())
	require.NoError(t, err)
	require.Equal(t, v, again)
	for _, s := range []string{
		"", "name=data", v.Flag() + ",x=1", v.Flag() + ",name=data", "name=../x,size=2147483648,class=default,replicas=1,sealing=on,trace=every",
		"name=data,size=1,class=default,replicas=1,sealing=on,trace=every", "name=data,size=2147483648,class=default,replicas=0,trace=every",
		"name=data,size=2147483648,class=,replicas=1,sealing=on,trace=every", "name=data,size=2147483648,class=default,replicas=1,sealing=on,trace=no",
	} {
		_, err := ParseVolumeFlag(s)
		require.Error(t, err, s)
	}
}

func TestParse(t *testing.T) {
	classes := BuiltIn()
	small, problems := NewClass("small", v1alpha1.VolumeClassSpec{DefaultSize: "1Gi", Trace: v1alpha1.TracePolicy{Default: "ratio:0.5", Allowed: []string{}}})
	require.Empty(t, problems)
	classes["small"] = small
	s, problems := Parse(map[string]string{
		"remora.dev/volumes": " data , logs", "data.remora.dev/size": "2Gi", "data.remora.dev/trace": "slow",
		"logs.remora.dev/class": "small", "remora.dev/status": "x", "other/key": "y", "notremora.dev/z": "z",
	}, classes, DefaultClass)
	require.Empty(t, problems)
	require.Equal(t, Spec{Volumes: []Volume{
		{Name: "data", Size: 2 << 30, Class: "default", Replicas: 1, Sealing: v1alpha1.SealingOn, Engine: v1alpha1.EngineReplicated, Mode: ModeFilesystem, Access: ReadWriteOnce, Trace: Trace{Kind: TraceSlow}},
		{Name: "logs", Size: 1 << 30, Class: "small", Replicas: 1, Sealing: v1alpha1.SealingOn, Engine: v1alpha1.EngineReplicated, Mode: ModeFilesystem, Access: ReadWriteOnce, Trace: Trace{Kind: TraceRatio, Ratio: 0.5}},
	}}, s)
	_, problems = Parse(map[string]string{"remora.dev/volumes": "logs", "logs.remora.dev/class": "small", "logs.remora.dev/trace": "slow"}, classes, DefaultClass)
	require.Len(t, problems, 1)
	require.Equal(t, `logs.remora.dev/trace: "slow": is not allowed by class "small"; allowed: ratio:0.5; fix: write "ratio:0.5"`, problems[0].String())
}

func TestProblemIsOneLine(t *testing.T) {
	p := Problem{Key: "a\nb", Value: strings.Repeat("é\n", 1000), HasValue: true, What: "is long"}
	require.NotContains(t, p.String(), "\n")
	require.Less(t, len(p.String()), 400)
}

func FuzzParse(f *testing.F) {
	f.Add("data", "data.remora.dev/size", "2Gi", "data.remora.dev/trace", "ratio:0.1")
	f.Add("data,logs", "logs.remora.dev/size", "20GiB", "Remora.dev/x", "-1")
	f.Add("", "remora.dev/inject", "false", "a.b.remora.dev/class", "default")
	f.Add("d", "d.remora.dev/size", "1e2000000000", "remora.dev", "\xff")
	f.Fuzz(func(t *testing.T, volumes, key1, value1, key2, value2 string) {
		annotations := map[string]string{KeyVolumes: volumes, key1: value1, key2: value2}
		s, problems := Parse(annotations, BuiltIn(), DefaultClass)
		_, again := Parse(annotations, BuiltIn(), DefaultClass)
		require.Equal(t, problems, again)
		for _, p := range problems {
			require.NotContains(t, p.String(), "\n")
			require.NotEmpty(t, p.Fix)
			require.NotEmpty(t, p.Allowed)
		}
		if len(problems) > 0 {
			return
		}
		for _, v := range s.Volumes {
			require.True(t, v.Size >= MinSize && v.Size <= MaxSize)
			parsed, err := ParseVolumeFlag(v.Flag())
			require.NoError(t, err)
			require.Equal(t, v, parsed)
		}
	})
}
