package peercache

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var compareMembers = cmp.AllowUnexported(member{})

func sampleMember() member {
	return member{url: "http://10.0.0.5:8080", zone: "west-1", weight: 3, boot: 0x0102030405060708, state: stateActive}
}

func TestMetaKeepsItsLayout(t *testing.T) {
	m := sampleMember()
	got, err := m.meta()
	if err != nil {
		t.Fatal(err)
	}
	want := binary.BigEndian.AppendUint64([]byte{1, 1}, ringConstants())
	want = append(want, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8)
	want = append(want, "\x06west-1\x14http://10.0.0.5:8080"...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("meta() of %+v (-want +got):\n%s", m, diff)
	}
}

func TestMetaComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := member{
			url:    string(rapid.SliceOfN(rapid.Byte(), 1, maxMemberURL).Draw(t, "url")),
			zone:   string(rapid.SliceOfN(rapid.Byte(), 0, maxMemberZone).Draw(t, "zone")),
			weight: rapid.IntRange(1, maxMemberWeight).Draw(t, "weight"),
			boot:   rapid.Uint64().Draw(t, "boot"),
			state:  state(rapid.IntRange(int(stateJoining), int(stateLeaving)).Draw(t, "state")),
		}
		b, err := m.meta()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 512 {
			t.Fatalf("meta() has %d bytes, memberlist takes 512", len(b))
		}
		later := append(b, rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "fields of a later release")...)
		got, err := parseMeta(later)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, compareMembers); diff != "" {
			t.Errorf("parseMeta(meta()) (-want +got):\n%s", diff)
		}
	})
}

func TestMetaRefusesWhatPeersWouldRefuse(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*member)
		want   string
	}{
		{"long URL", func(m *member) { m.url = strings.Repeat("u", maxMemberURL+1) }, "URL has 256 bytes"},
		{"long zone", func(m *member) { m.zone = strings.Repeat("z", maxMemberZone+1) }, "zone has 65 bytes"},
		{"no URL", func(m *member) { m.url = "" }, "no URL"},
		{"no weight", func(m *member) { m.weight = 0 }, "weight 0"},
		{"too much weight", func(m *member) { m.weight = 101 }, "weight 101"},
		{"no state", func(m *member) { m.state = 0 }, "state 0"},
		{"unknown state", func(m *member) { m.state = 4 }, "state 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := sampleMember()
			test.change(&m)
			b, err := m.meta()
			if err == nil {
				t.Fatalf("meta() of %+v = %x, want an error", m, b)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("meta() of %+v: error %q, want it to contain %q", m, err, test.want)
			}
		})
	}
}

func TestParseMetaSaysWhatIsWrong(t *testing.T) {
	good, err := sampleMember().meta()
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, to byte) []byte {
		b := slices.Clone(good)
		b[at] = to
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "too early"},
		{"only a version", good[:1], "too early"},
		{"no zone", good[:metaFixed], "too early"},
		{"half a zone", good[:metaFixed+3], "zone: meta data ends too early"},
		{"half a URL", good[:len(good)-1], "url: meta data ends too early"},
		{"another version", changed(0, 2), "version 2"},
		{"another protocol", changed(1, 9), "protocol 9"},
		{"other constants", changed(5, good[5]+1), "another ring"},
		{"no state", changed(10, 0), "state 0"},
		{"unknown state", changed(10, 4), "state 4"},
		{"no weight", changed(11, 0), "weight 0"},
		{"too much weight", changed(11, 101), "weight 101"},
		{"long zone", changed(metaFixed, maxMemberZone+1), "zone: 65 bytes"},
		{"no URL", append(good[:metaFixed+7:metaFixed+7], 0), "no URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := parseMeta(test.b)
			if err == nil {
				t.Fatalf("parseMeta(%x) = %+v, want an error", test.b, m)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("parseMeta(%x): error %q, want it to contain %q", test.b, err, test.want)
			}
			if diff := cmp.Diff(member{}, m, compareMembers); diff != "" {
				t.Errorf("parseMeta(%x) with an error returned a member (-want +got):\n%s", test.b, diff)
			}
		})
	}
}

func FuzzParseMeta(f *testing.F) {
	good, err := sampleMember().meta()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:metaFixed])
	f.Add(append(slices.Clip(good), "a later field"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err != nil {
			return
		}
		again, err := m.meta()
		if err != nil {
			t.Fatalf("meta() refuses what parseMeta(%x) = %+v took: %v", b, m, err)
		}
		if string(again) != string(b[:len(again)]) {
			t.Errorf("parseMeta(%x) = %+v, which is %x", b, m, again)
		}
	})
}
