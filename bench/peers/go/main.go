// The backend as a Go programmer writes it: net/http with chi's routes, golang-jwt, and SQL on a pgx pool.
//
// Built with what Debian packages, without a module proxy:
//
//	apt-get install --no-install-recommends golang-go golang-github-go-chi-chi-dev \
//	    golang-github-golang-jwt-jwt-dev golang-github-jackc-pgx-v4-dev
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o bench/peers/go/peer bench/peers/go/main.go
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi"
	"github.com/golang-jwt/jwt"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const columns = "id, user_id, title, description, completed, created_at, updated_at"

const (
	listSQL   = "SELECT " + columns + " FROM task WHERE user_id = $1 ORDER BY created_at DESC, id DESC"
	createSQL = "INSERT INTO task (user_id, title, description, completed) VALUES ($1, $2, $3, $4) RETURNING " + columns
	readSQL   = "SELECT " + columns + " FROM task WHERE id = $1 AND user_id = $2"
	updateSQL = `UPDATE task SET title = coalesce($3, title), completed = coalesce($4, completed),
		description = CASE WHEN $5 THEN $6 ELSE description END, updated_at = now()
		WHERE id = $1 AND user_id = $2 RETURNING ` + columns
	toggleSQL = `UPDATE task SET completed = NOT completed, updated_at = now()
		WHERE id = $1 AND user_id = $2 RETURNING ` + columns
	deleteSQL = "DELETE FROM task WHERE id = $1 AND user_id = $2"
)

type task struct {
	ID          int64     `json:"id"`
	UserID      string    `json:"user_id"`
	Title       string    `json:"title"`
	Description *string   `json:"description"`
	Completed   bool      `json:"completed"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

func scan(row pgx.Row) (t task, err error) {
	err = row.Scan(&t.ID, &t.UserID, &t.Title, &t.Description, &t.Completed, &t.CreatedAt, &t.UpdatedAt)
	t.CreatedAt, t.UpdatedAt = t.CreatedAt.UTC(), t.UpdatedAt.UTC()
	return t, err
}

// field tells an absent value from null.
type field[T any] struct {
	given bool
	value *T
}

func (f *field[T]) UnmarshalJSON(data []byte) error {
	f.given = true
	return json.Unmarshal(data, &f.value)
}

func (f field[T]) null() bool { return f.given && f.value == nil }

type fields struct {
	Title       field[string] `json:"title"`
	Description field[string] `json:"description"`
	Completed   field[bool]   `json:"completed"`
}

func (f fields) valid() bool {
	title, description := f.Title.value, f.Description.value
	return !f.Title.null() && !f.Completed.null() &&
		(title == nil || strings.TrimSpace(*title) != "" && utf8.RuneCountInString(*title) <= 200) &&
		(description == nil || utf8.RuneCountInString(*description) <= 1000)
}

type server struct {
	pool   *pgxpool.Pool
	secret []byte
	issuer string
	parser *jwt.Parser
}

func (s *server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Get("Authorization")
		var claims jwt.RegisteredClaims
		_, err := s.parser.ParseWithClaims(strings.TrimPrefix(header, "Bearer "), &claims,
			func(*jwt.Token) (interface{}, error) { return s.secret, nil })
		switch {
		case err != nil || !strings.HasPrefix(header, "Bearer ") || claims.Subject == "" || claims.ExpiresAt == nil,
			!claims.VerifyIssuer(s.issuer, true), !claims.VerifyAudience(s.issuer, true):
			fail(w, http.StatusUnauthorized, "Invalid token")
		case claims.Subject != chi.URLParam(r, "user_id"):
			fail(w, http.StatusForbidden, "Not your tasks")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func reply(w http.ResponseWriter, status int, body interface{}) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, status int, detail string) {
	reply(w, status, map[string]string{"detail": detail})
}

func broken(w http.ResponseWriter, err error) {
	log.Print(err)
	fail(w, http.StatusInternalServerError, "Internal server error")
}

func (s *server) one(w http.ResponseWriter, r *http.Request, status int, sql string, arguments ...interface{}) {
	t, err := scan(s.pool.QueryRow(r.Context(), sql, arguments...))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		fail(w, http.StatusNotFound, "Task not found")
	case err != nil:
		broken(w, err)
	default:
		reply(w, status, t)
	}
}

func body(w http.ResponseWriter, r *http.Request) (f fields, ok bool) {
	if json.NewDecoder(r.Body).Decode(&f) != nil || !f.valid() {
		fail(w, http.StatusUnprocessableEntity, "Invalid task")
		return f, false
	}
	return f, true
}

// key returns the task's id, which is 0, as no task's is, where it is no number.
func key(r *http.Request) (int64, string) {
	id, _ := strconv.ParseInt(chi.URLParam(r, "id"), 10, 64)
	return id, chi.URLParam(r, "user_id")
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	rows, err := s.pool.Query(r.Context(), listSQL, chi.URLParam(r, "user_id"))
	if err != nil {
		broken(w, err)
		return
	}
	defer rows.Close()
	tasks := []task{}
	for rows.Next() {
		t, err := scan(rows)
		if err != nil {
			broken(w, err)
			return
		}
		tasks = append(tasks, t)
	}
	if rows.Err() != nil {
		broken(w, rows.Err())
		return
	}
	reply(w, http.StatusOK, tasks)
}

func (s *server) create(w http.ResponseWriter, r *http.Request) {
	f, ok := body(w, r)
	if !ok {
		return
	}
	if !f.Title.given {
		fail(w, http.StatusUnprocessableEntity, "A title is required")
		return
	}
	completed := f.Completed.given && *f.Completed.value
	s.one(w, r, http.StatusCreated, createSQL, chi.URLParam(r, "user_id"), f.Title.value, f.Description.value, completed)
}

func (s *server) read(w http.ResponseWriter, r *http.Request) {
	id, user := key(r)
	s.one(w, r, http.StatusOK, readSQL, id, user)
}

func (s *server) update(w http.ResponseWriter, r *http.Request) {
	id, user := key(r)
	if f, ok := body(w, r); ok {
		s.one(w, r, http.StatusOK, updateSQL, id, user, f.Title.value, f.Completed.value,
			f.Description.given, f.Description.value)
	}
}

func (s *server) toggle(w http.ResponseWriter, r *http.Request) {
	id, user := key(r)
	s.one(w, r, http.StatusOK, toggleSQL, id, user)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) {
	id, user := key(r)
	done, err := s.pool.Exec(r.Context(), deleteSQL, id, user)
	switch {
	case err != nil:
		broken(w, err)
	case done.RowsAffected() == 0:
		fail(w, http.StatusNotFound, "Task not found")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func main() {
	config, err := pgxpool.ParseConfig(os.Getenv("NEON_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	size, err := strconv.Atoi(os.Getenv("POOL_SIZE"))
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = int32(size)
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	s := &server{
		pool:   pool,
		secret: []byte(os.Getenv("BETTER_AUTH_SECRET")),
		issuer: os.Getenv("BETTER_AUTH_URL"),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"HS256"})),
	}
	router := chi.NewRouter()
	router.Route("/api/{user_id}/tasks", func(r chi.Router) {
		r.Use(s.authorize)
		r.Get("/", s.list)
		r.Post("/", s.create)
		r.Get("/{id}", s.read)
		r.Put("/{id}", s.update)
		r.Delete("/{id}", s.remove)
		r.Patch("/{id}/complete", s.toggle)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), router))
}
