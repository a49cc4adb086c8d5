package session

// Workers are how many there are, and how many of them rest.
func (s *Session) Workers() (size, resting int) {
	s.crew.mu.Lock()
	defer s.crew.mu.Unlock()
	return s.crew.size, len(s.crew.resting)
}
